"""The tasks of GLUE, from the hub or from a folder of the original files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

from pydantic import Field

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_glue.data.hub_data import REPOSITORY, hub_data
from kd_glue.data.sources import SOURCES, TextSource
from kd_glue.data.tasks import TASKS, GlueTask
from kd_glue.data.texts import Texts, empty_notes
from kd_glue.data.tsv import glue_folder

Name = Annotated[str, Field(min_length=1)]


class GlueReader(Protocol):
    """A reader of one task of GLUE; a split that does not exist is None."""

    def train(self) -> Texts | None:
        """The training set."""

    def val(self) -> Texts | None:
        """The dev set."""

    def unlabelled(self) -> dict[str, Texts]:
        """The test sets without labels, by name."""


def read_glue(
    task: GlueTask, root: Path | None, *, folder: Name | None = None, revision: Name | None = None
) -> Parts[Texts]:
    """The training and the dev set; the test sets have no labels. ``folder`` lies below ``root``, ``revision`` is the
    hub's."""
    if task.name == "ax":
        raise KDError("ax has no labels: models of mnli predict it", hint="data.name: mnli", path="name")
    source = reader_of(task, root, folder, revision)
    train, val = source.train(), source.val()
    if val is None:
        missing = (root or Path()) / (folder or task.folder)
        raise KDError(f"the dev set of {task.name} is missing from {missing}", path="root")
    source_name = f"{REPOSITORY} ({task.name})" if root is None else str(root / (folder or task.folder))
    notes = [*empty_notes(train, f"{source_name}, train"), *empty_notes(val, f"{source_name}, val")]
    places = {"train": source_name, "val": source_name}
    return Parts(train, val, None, task.labels, places, notes=tuple(notes))


def unlabelled_glue(
    task: GlueTask, root: Path | None, *, folder: Name | None = None, revision: Name | None = None
) -> dict[str, Texts]:
    """The test sets by name, as far as they are there."""
    return reader_of(task, root, folder, revision).unlabelled()


def reader_of(task: GlueTask, root: Path | None, folder: str | None, revision: str | None) -> GlueReader:
    """The reader of a task: its folder below ``root``, or the hub without one."""
    return hub_data(task, revision) if root is None else glue_folder(task, root, folder)


for _task in TASKS.values():
    SOURCES(_task.name)(
        TextSource(
            _task.about,
            partial(read_glue, _task),
            splits=None if _task.name == "ax" else ("train", "val"),
            problem=_task.problem,
            classes=_task.labels,
            unlabelled=partial(unlabelled_glue, _task),
            task=_task,
        )
    )
