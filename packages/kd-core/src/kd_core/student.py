"""A trained student by itself: the model, what makes its inputs, and its classes, from its folder alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kd_core.config import Builder, Policy
from kd_core.config.schema import ModelSpec, StudentSpec
from kd_core.data.batch import STUDENT, DatasetInfo
from kd_core.device.seeding import seeded
from kd_core.errors import KDError
from kd_core.models.factory import DESCRIPTION, ModelSource, student_folder, student_spec
from kd_core.runs.run_folder import LINEAGE, local_folders
from kd_core.task import TASKS, Task


@dataclass(frozen=True)
class Student:
    """What :func:`load` finds in a student's folder.

    ``model`` is in evaluation mode on ``device``. ``preprocess`` takes one sample, or a list of them, and gives the
    batch that evaluation gives the model. ``classes`` are the names of its outputs, None where it has no classes.
    ``lineage`` is what the folder says of its teachers, data and versions.
    """

    model: nn.Module
    preprocess: Callable[[Any], Any]
    classes: tuple[str, ...] | None
    task: Task
    description: StudentSpec
    folder: Path
    device: torch.device
    lineage: dict[str, Any]

    def __call__(self, samples: Any) -> Any:
        """What the model gives for one sample or a list of them, without gradients, as evaluation reads it."""
        with torch.no_grad():
            return self.task.call(self.model, self.preprocess(samples))


def load(path: str | Path, *, device: str | torch.device = "cpu", trust: Sequence[str] = ()) -> Student:
    """The student of a run: ``path`` is the run's folder or its ``student/``, wherever that lies now.

    Nothing else is read: neither the run's config nor its data, its teachers or the weights it began with. No code of
    the folder is executed: what its description calls is judged as a config is, and ``trust`` allows more. Random
    states stay as they are. KDError where there is no student, or a part of it is missing or damaged.
    """
    folder, device = student_folder(Path(path)), torch.device(device)
    spec, policy = student_spec(folder), Policy(trust)
    task = task_of(folder, spec, policy)
    model = build(folder, task, spec, policy).eval().to(device)
    classes = None if spec.class_names is None else tuple(spec.class_names)
    preprocess = task.preprocessor(spec, model, device)
    return Student(model, preprocess, classes, task, spec, folder, device, lineage_of(folder))


def task_of(folder: Path, spec: StudentSpec, policy: Policy) -> Task:
    """The task that a student was trained for; KDError where its folder does not say it.

    Modules that register the task or the architecture are imported, as far as ``policy`` trusts them.
    """
    if policy.trust:
        sys.path += [path for path in local_folders(folder.parent / "config.yaml") if path not in sys.path]
    try:
        for name in spec.imports:
            policy.import_module(name)
    except KDError as error:
        raise error.at(str(folder / DESCRIPTION), "imports") from None
    if spec.task is None:
        raise KDError(f"{folder / DESCRIPTION} does not say of which task it is", hint="`task: NAME` in that file")
    return TASKS.get(spec.task)()


def build(folder: Path, task: Task, spec: StudentSpec, policy: Policy) -> nn.Module:
    """The model in a student's folder, with its weights."""
    classes = None if spec.class_names is None else tuple(spec.class_names)
    source = ModelSource(
        Builder(policy),
        STUDENT,
        None,
        DatasetInfo(classes=classes),
        lambda note: None,
        hubs=task.hubs,
        finished=True,
    )
    with seeded(0):
        return source.make(STUDENT, ModelSpec(run=str(folder)))


def lineage_of(folder: Path) -> dict[str, Any]:
    """What lies beside a student of what it was made from; empty where there is nothing."""
    file = folder / LINEAGE
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise KDError(f"{file} is damaged ({type(error).__name__}: {error})") from error
    return content if isinstance(content, dict) else {}
