"""A run's student as a model on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_core.config import load
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.repository import CONFIG, TIMEOUT, first_line, local_folder
from kd_core.runs.card import without_front_matter
from kd_core.runs.run_folder import RunFolder
from kd_glue.data.hub_data import REPOSITORY
from kd_glue.data.tasks import TASKS

TOKEN_HINT = "`hf auth login`, or a token that may write in HF_TOKEN"


def push(folder: Path, name: str, *, private: bool = False) -> str:
    """Upload the student of the run in ``folder`` as the model ``name``, with a card; the model's address.

    All is one commit; a repository that is not there yet is made. KDError where the run has no student that
    transformers can load, without a token, and where the hub refuses or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    run = RunFolder.open(folder)
    if not run.finished or not (run.student / CONFIG).is_file():
        raise KDError(f"{folder} has no finished student that transformers could load: there is nothing to upload")
    if get_token() is None:
        raise KDError("the hub needs a token, and none is here", hint=TOKEN_HINT)
    files = {path.name: path for path in sorted(run.student.iterdir()) if path.is_file()}
    operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=path) for file, path in files.items()]
    try:
        check_hub_answers(name)
        repository = HfApi().create_repo(name, private=private, exist_ok=True)
        operations.append(CommitOperationAdd("README.md", card(run, repository.repo_id).encode()))
        HfApi().create_commit(repository.repo_id, operations, commit_message=f"kd-glue: {run.path.name}")
    except Exception as error:  # of the hub, the network and the disk, in several libraries
        hint = TOKEN_HINT if status_of(error) in (401, 403) else None
        raise KDError(f"cannot upload {name}: {first_line(error)}", hint=hint) from error
    return str(repository)


def check_hub_answers(name: str) -> None:
    """Raise at once what the library raises where the hub does not answer: uploads would try again and again."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, timeout=TIMEOUT)
    except Exception as error:
        if status_of(error) not in (401, 403, 404):  # those say that there is none yet
            raise


def status_of(error: Exception) -> int | None:
    """The HTTP status that an error came from."""
    return getattr(getattr(error, "response", None), "status_code", None)


def card(run: RunFolder, name: str) -> str:
    """The hub's model card: what its search reads, how the model is loaded, and the run's own card."""
    config = load(run.config).data
    text = without_front_matter(run.card.read_text(encoding="utf-8"))
    names = {"student/": "", 'load("student")': 'load("FOLDER")', "{run: <this folder>}": f"{{hub: {name}}}"}
    for here, there in names.items():
        text = text.replace(here, there)
    use = f'from transformers import pipeline\n\nclassify = pipeline("text-classification", "{name}")'
    return f"---\n{_metadata(config, run.result(), name)}\n---\n\n{text}\n```python\n{use}\n```\n"


def _metadata(config: Mapping[str, Any], result: Mapping[str, Any], name: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = TASKS.get(config["data"].get("name"))
    student = config["models"][STUDENT]
    base = student.get("hub") if isinstance(student, Mapping) and student.get("weights", "auto") is not None else None
    metrics = {key: value for key, value in result["metrics"].items() if key not in ("loss", "score")}
    common: dict[str, Any] = {"task_type": "text-classification", "dataset_type": REPOSITORY, "dataset_name": "GLUE"}
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["kd-glue", *(["knowledge-distillation"] if len(config["models"]) > 1 else [])],
        "base_model": base if isinstance(base, str) and _on_hub(base) else None,
    }
    if task is not None:
        fields |= {"language": "en", "datasets": [REPOSITORY], "metrics": list(metrics), "model_name": name}
        fields["eval_results"] = [
            EvalResult(
                **common,
                dataset_config=task.name,
                dataset_split=result["split"],
                metric_type=key,
                metric_value=round(value, 6),
            )
            for key, value in metrics.items()
        ]
    return str(ModelCardData(**{key: value for key, value in fields.items() if value})).strip()


def _on_hub(name: str) -> bool:
    try:
        return local_folder(name) is None
    except KDError:
        return False
