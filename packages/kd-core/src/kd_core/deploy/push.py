"""A run's student as a model on the Hugging Face hub, with its card."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from kd_core.config import load
from kd_core.errors import KDError
from kd_core.models.factory import WEIGHTS
from kd_core.repository import TIMEOUT, first_line
from kd_core.runs.card import FRONT, without_front_matter
from kd_core.runs.run_folder import RunFolder
from kd_core.task import TASKS, Task

TOKEN_HINT = "`hf auth login`, or a token that may write in HF_TOKEN"
CARD = "README.md"
PATH = re.compile(r"(?<![\w:/.\\])(?:[A-Za-z]:[\\/]|~?/)(?:[^\s:,;|`'\"]+[\\/])*([^\s:,;|`'\"/\\]+)")
"""An absolute path, and its last part."""
NO_FIGURES = ("loss", "score")
"""Metrics that a card's front matter does not have: they are of this project alone."""
USAGE = """\
import kd_core
from huggingface_hub import snapshot_download

student = kd_core.load(snapshot_download("{name}"))
print(student.classes)"""


@dataclass(frozen=True)
class Pushed:
    """An upload: the model's ``address``, and the bytes of each file. Of a dry run nothing was sent."""

    name: str
    address: str
    files: dict[str, int]
    private: bool
    dry_run: bool = False


def push(folder: Path, name: str, *, private: bool = False, dry_run: bool = False) -> Pushed:
    """Upload the student of the finished run in ``folder`` as the model ``name``, with a card.

    All is one commit; a repository that is not there yet is made, ``private`` or public. KDError where the run has no
    student, without a token, and where the hub refuses or does not answer. With ``dry_run`` nothing is asked or sent.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    run = RunFolder.open(folder)
    if not run.finished or not (run.student / WEIGHTS).is_file():
        raise KDError(f"{folder} has no finished student: there is nothing to upload")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise KDError(f"cannot upload {name}: {first_line(error)}", hint="a name on the hub is ORG/NAME") from error
    files = {path.name: path for path in sorted(run.student.iterdir()) if path.is_file() and path.name != CARD}
    sizes = {file: path.stat().st_size for file, path in files.items()}
    if dry_run:
        sizes[CARD] = len(card(run, name).encode())
        return Pushed(name, f"{constants.ENDPOINT}/{name}", sizes, private, dry_run=True)
    if get_token() is None:
        raise KDError("the hub needs a token, and none is here", hint=TOKEN_HINT)
    operations = [CommitOperationAdd(path_in_repo=file, path_or_fileobj=path) for file, path in files.items()]
    try:
        check_hub_answers(name)
        repository = HfApi().create_repo(name, private=private, exist_ok=True)
        text = card(run, repository.repo_id).encode()
        operations.append(CommitOperationAdd(CARD, text))
        HfApi().create_commit(repository.repo_id, operations, commit_message=f"The student of {run.path.name}")
    except Exception as error:  # of the hub, the network and the disk, in several libraries
        hint = TOKEN_HINT if status_of(error) in (401, 403) else None
        raise KDError(f"cannot upload {name}: {first_line(error)}", hint=hint) from error
    return Pushed(repository.repo_id, str(repository), {**sizes, CARD: len(text)}, private)


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
    """The hub's model card: what its search reads, the run's own card, and how the model is loaded."""
    config = load(run.config).data
    task = TASKS.get(config["task"])()
    whole = run.card.read_text(encoding="utf-8")
    text = for_others(without_front_matter(whole))
    here = {"student/": "", 'load("student")': 'load("FOLDER")', "{run: <this folder>}": "{run: FOLDER}"}
    if source := task.hub_source(run.student, name):
        here["{run: <this folder>}"] = source
    for local, there in here.items():
        text = text.replace(local, there)
    usage = task.hub_usage(run.student, name) or USAGE.format(name=name)
    front = _front_matter(task, config, run, name, whole)
    return f"---\n{front}---\n\n{text}\nFrom the hub:\n\n```python\n{usage}\n```\n"


def for_others(text: str) -> str:
    """A card's text without what is of this machine: paths by their last part, and no warnings, which quote samples."""
    lines = [line for line in text.splitlines() if not line.startswith("- warning")]
    return PATH.sub(r"\1", "\n".join(lines)) + "\n"


def _front_matter(task: Task, config: Mapping[str, Any], run: RunFolder, name: str, card: str) -> str:
    """What the hub's search reads: that of the run's own card, with the model's name and the task's facts."""
    match = FRONT.match(card)
    fields: dict[str, Any] = (yaml.safe_load(match[0].strip().strip("-")) if match else None) or {}
    facts = task.hub_facts(config, run.student)
    dataset = facts.pop("dataset", {})
    fields = {**fields, "pipeline_tag": task.pipeline_tag, **facts}
    for entry in fields.get("model-index", []):
        entry["name"] = name
        for result in entry["results"]:
            result["dataset"] |= dataset
            result["metrics"] = [figure for figure in result["metrics"] if figure["type"] not in NO_FIGURES]
    if "metrics" in fields:
        fields["metrics"] = [metric for metric in fields["metrics"] if metric not in NO_FIGURES]
    there = {key: value for key, value in fields.items() if value}
    text: str = yaml.safe_dump(there, sort_keys=False, allow_unicode=True)
    return text
