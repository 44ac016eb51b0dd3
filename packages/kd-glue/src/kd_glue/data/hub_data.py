"""GLUE from the hub, by the datasets library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from kd_core.data.hub_data import load_hub, resolve_revision
from kd_core.errors import KDError
from kd_glue.data.tasks import GlueTask
from kd_glue.data.texts import Texts, concatenated, missing_targets

REPOSITORY = "nyu-mll/glue"
VAL = {"mnli": ("validation_matched", "validation_mismatched"), "ax": ()}
"""The hub's names of the dev set, where that is not ``validation``."""
TEST = {"mnli": ("test_matched", "test_mismatched")}
"""The hub's names of the splits without labels, where that is not ``test``."""
FOLDER_HINT = "data.root reads GLUE's original files from a folder"


@dataclass(frozen=True)
class HubData:
    """The hub's data set of a task, of which each split is read when it is asked for."""

    task: GlueTask
    parts: Any
    """The datasets library's mapping of splits."""

    def train(self) -> Texts | None:
        """The training split; None for AX, which has none."""
        return None if self.task.name == "ax" else self._labelled("train")

    def val(self) -> Texts | None:
        """The dev set, MNLI's two as one."""
        names = VAL.get(self.task.name, ("validation",))
        splits = [self._labelled(name) for name in names]
        return None if not splits else splits[0] if len(splits) == 1 else concatenated(*splits)

    def unlabelled(self) -> dict[str, Texts]:
        """The test sets, by name."""
        if self.task.name == "ax":
            return {"ax": self._unlabelled("test")}
        return {name: self._unlabelled(name) for name in TEST.get(self.task.name, ("test",))}

    def _labelled(self, name: str) -> Texts:
        table = self._table(name)
        label = table.column("label").to_numpy()
        if self.task.labels is None:
            if np.isnan(label).any() or label.min(initial=0) < 0 or label.max(initial=0) > 5:
                raise KDError(f"{self._of(name)} has scores that are not from 0 to 5")
            return self._texts(name, table, label.astype(np.float32)[:, None])
        names = getattr(self.parts[name].features["label"], "names", None)
        if names != list(self.task.labels):
            raise KDError(f"{self._of(name)} has the labels {names}, not {list(self.task.labels)}")
        if not np.isin(label, np.arange(len(names))).all():
            raise KDError(f"{self._of(name)} has rows without a label")
        return self._texts(name, table, label.astype(np.int64))

    def _unlabelled(self, name: str) -> Texts:
        table = self._table(name)
        return self._texts(name, table, missing_targets(table.num_rows, self.task.labels is None))

    def _texts(self, name: str, table: pa.Table, target: Any) -> Texts:
        columns = [pa.concat_arrays(table.column(column).cast(pa.large_string()).chunks) for column in self.task.texts]
        if any(column.null_count for column in columns):
            raise KDError(f"{self._of(name)} has rows without a text")
        return Texts(tuple(columns), target, np.arange(len(target)))

    def _table(self, name: str) -> pa.Table:
        """All rows of a split, in their order."""
        if name not in self.parts:
            raise KDError(f"{REPOSITORY} has no split {name!r} of {self.task.name}; it has {', '.join(self.parts)}")
        table = self.parts[name].with_format("arrow")[:]
        missing = [column for column in (*self.task.texts, "label") if column not in table.column_names]
        if missing:
            raise KDError(f"{self._of(name)} has no column {missing[0]!r}")
        return table

    def _of(self, name: str) -> str:
        return f"{REPOSITORY}: the split {name!r} of {self.task.name}"


def hub_data(task: GlueTask, revision: str | None) -> HubData:
    """The data set of a task, downloaded where the cache does not hold it.

    KDError where the hub does not answer and the cache holds no copy, or one of another commit than ``revision``.
    """
    return HubData(task, load_hub(REPOSITORY, task.name, revision, hint=FOLDER_HINT, path="data"))


def resolve_data_revision(revision: str | None) -> str | None:
    """The commit that ``revision`` of GLUE is today, see :func:`kd_core.data.hub_data.resolve_revision`."""
    return resolve_revision(REPOSITORY, revision, hint=FOLDER_HINT, path="data")
