"""What a config may say under ``data:`` and under a model's ``input:``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from kd_core.config.schema import Limits, PositiveInt, StrictModel
from kd_core.errors import KDError, did_you_mean
from kd_glue.data.tasks import TASKS, GlueTask, ProblemType

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]
OWN = ("text", "label", "problem", "labels", "val")
"""What is said of files of one's own, and known of GLUE's."""
GLUE = ("root", "folder", "revision")
"""Where the data of a task of GLUE are."""


class Files(StrictModel):
    """A table for each split: csv, tsv, jsonl or parquet."""

    train: Name | None = None
    val: Name | None = None
    test: Name | None = None


class DataSpec(StrictModel):
    """Which texts, what their labels are, and how they are split. See docs/glue.md."""

    name: str | None = None
    root: Name | None = None
    folder: Name | None = None
    revision: Name | None = None
    files: Files | None = None
    text: Name | Annotated[list[Name], Field(min_length=1, max_length=2)] | None = None
    label: Name | Annotated[list[Name], Field(min_length=1)] | None = None
    problem: ProblemType | None = None
    labels: Annotated[list[Name], Field(min_length=1)] | None = None
    limit: PositiveInt | Limits | None = None
    val: Count | Fraction | None = None
    max_length: PositiveInt = 128
    tokenizer: Name | None = None
    cache: Name | None = None

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in TASKS:
            raise ValueError(KDError(f"there is no GLUE task {name!r}", hint=did_you_mean(name, list(TASKS))))
        return name

    @field_validator("text", "label", "labels")
    @classmethod
    def _distinct(cls, names: str | list[str] | None) -> str | list[str] | None:
        if isinstance(names, list) and len(set(names)) < len(names):
            raise ValueError("a name is listed twice")
        return names

    @model_validator(mode="after")
    def _agree(self) -> DataSpec:
        if (self.name is None) == (self.files is None):
            raise ValueError("give one of 'name' (a task of GLUE) and 'files' (your own)")
        given = [key for key in (OWN if self.files is None else GLUE) if getattr(self, key) is not None]
        if given:
            raise ValueError(f"{given[0]!r} goes with {'files' if self.files is None else 'name'!r}: leave it out")
        if self.folder is not None and self.root is None:
            raise ValueError("'folder' is a folder below 'root': give that too")
        if self.revision is not None and self.root is not None:
            raise ValueError("'revision' is one of the hub's data, 'root' is a folder: give one, null for the other")
        if self.files is not None:
            self._of_files(self.files)
        return self

    def _of_files(self, files: Files) -> None:
        if not files.model_fields_set:
            raise ValueError("'files' names no table: give 'train', 'val' or 'test'")
        if self.text is None:
            raise ValueError("'text' is missing: the column of the texts, or two of pairs of texts")
        if self.label is None and (files.train or files.val):
            raise ValueError("'label' is missing: the column of the labels")
        if isinstance(self.label, list):
            if self.problem not in (None, "multi_label_classification"):
                raise ValueError("several 'label' columns are a multi_label_classification: leave 'problem' out")
            if self.labels is not None:
                raise ValueError("several 'label' columns are the classes: leave 'labels' out")
        if self.labels is not None and self.kind == "regression":
            raise ValueError("a regression has no classes: leave 'labels' out")
        if self.labels is not None and self.kind == "single_label_classification" and len(self.labels) < 2:
            raise ValueError("'labels' of a classification are two or more")

    @property
    def task(self) -> GlueTask | None:
        """The task of GLUE, None for files of one's own."""
        return None if self.name is None else TASKS[self.name]

    @property
    def kind(self) -> ProblemType:
        """The problem, in the words of transformers' ``config.problem_type``."""
        if self.task is not None:
            return self.task.problem
        if isinstance(self.label, list):
            return "multi_label_classification"
        return self.problem or "single_label_classification"

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of the targets, as far as the config tells."""
        if self.task is not None:
            return self.task.labels
        known = self.label if isinstance(self.label, list) else self.labels
        return None if known is None else tuple(known)

    @property
    def limits(self) -> Limits:
        """``limit`` for each split; a single number is for training rows."""
        return Limits(train=self.limit) if isinstance(self.limit, int) else self.limit or Limits()


class InputSpec(StrictModel):
    """What one model takes. What is left out is the data's own.

    ``tokenizer`` is an id on the hub, of which ``revision`` is a version, or a folder.
    """

    tokenizer: Name | None = None
    revision: Name | None = None
    max_length: PositiveInt | None = None
