"""What the hub's card of a student says of texts: GLUE's data set, transformers, and the model that it began as."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.repository import CONFIG, local_folder
from kd_glue.data.hub_data import REPOSITORY
from kd_glue.data.tasks import TASKS


def card_facts(config: Mapping[str, Any], student: Path) -> dict[str, Any]:
    """Fields of the card, see :meth:`kd_core.task.Task.hub_facts`."""
    task = TASKS.get(config["data"].get("name"))
    spec = config["models"][STUDENT]
    base = spec.get("hub") if isinstance(spec, Mapping) and spec.get("weights", "auto") is not None else None
    fields: dict[str, Any] = {
        "base_model": base if isinstance(base, str) and _on_hub(base) else None,
    }
    if (student / CONFIG).is_file():
        fields["library_name"] = "transformers"
    if task is not None:
        dataset = {"name": "GLUE", "type": REPOSITORY, "config": task.name}
        fields |= {"language": "en", "datasets": [REPOSITORY], "dataset": dataset}
    return fields


def pipeline_usage(student: Path, name: str) -> str:
    """A pipeline of transformers, where it can load the student."""
    if not (student / CONFIG).is_file():
        return ""
    return f'from transformers import pipeline\n\nclassify = pipeline("text-classification", "{name}")'


def _on_hub(name: str) -> bool:
    try:
        return local_folder(name) is None
    except KDError:
        return False
