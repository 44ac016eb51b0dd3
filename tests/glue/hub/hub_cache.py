"""A cache of the Hugging Face hub with the configs of published models and nothing else: what a check reads.

``HF_HUB_CACHE`` names it to another process; in one that has imported the library, :func:`use` does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from kd_glue.data.tasks import TASKS

FIXTURES = Path(__file__).parent / "fixtures" / "hub"
SIZES = ("base", "large")
PLAIN = tuple(f"bert-{size}-uncased" for size in SIZES)
OTHERS = ("huawei-noah/TinyBERT_General_4L_312D",)
FINE_TUNED = tuple(f"yoshitomo-matsubara/{name}-{task}" for name in PLAIN for task in TASKS if task != "ax")


def commit_of(name: str) -> str:
    """A made-up commit of a model: 40 hexadecimal digits that follow from its name."""
    return hashlib.sha1(name.encode()).hexdigest()


def published(name: str) -> dict[str, Any]:
    """The config of a published model; that of a fine-tuned one has as many classes without names as its task."""
    base = next(each for each in (*PLAIN, *OTHERS) if each in name)
    config: dict[str, Any] = json.loads((FIXTURES / f"{base}.json").read_text(encoding="utf-8"))
    if name == base:
        return config
    task = TASKS[name.rpartition("-")[2]]
    labels = {str(each): f"LABEL_{each}" for each in range(task.num_labels)}
    named = {"id2label": labels, "label2id": {each: int(key) for key, each in labels.items()}}
    return {**config, "architectures": ["BertForSequenceClassification"], "finetuning_task": task.name, **named}


def place(cache: Path, name: str, files: Path, *, ref: str = "main") -> str:
    """Put the files of a folder into a cache, as the library does, as the model ``name``; its commit."""
    commit = commit_of(name)
    model = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(files, model / "snapshots" / commit, dirs_exist_ok=True)
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / ref).write_text(commit)
    return commit


def lay_out(cache: Path, names: Iterable[str] = (*PLAIN, *OTHERS, *FINE_TUNED)) -> dict[str, str]:
    """Put the configs of published models into a cache; the commit of each."""
    commits = {}
    for name in names:
        folder = cache / ".configs" / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(published(name)), encoding="utf-8")
        commits[name] = place(cache, name, folder)
    shutil.rmtree(cache / ".configs")
    return commits


def use(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Make ``cache`` the library's, in this process and in those it starts."""
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
