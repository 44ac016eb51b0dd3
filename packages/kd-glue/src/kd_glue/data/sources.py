"""Where the texts come from, and which of them train, choose the best checkpoint, and test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from kd_core.device.seeding import permutation
from kd_core.errors import KDError
from kd_glue.data.hub_data import hub_data
from kd_glue.data.spec import DataSpec
from kd_glue.data.tables import Read, read_texts
from kd_glue.data.texts import Texts
from kd_glue.data.tsv import glue_folder

MULTI = "multi_label_classification"
VAL_SHARE = 0.1
"""The share of the training rows that validates, for tables without any for that."""


@dataclass(frozen=True)
class Parts:
    """A data set in its splits. ``classes`` are the names of the classes in the order of the targets."""

    train: Texts | None
    val: Texts | None
    test: Texts | None
    classes: tuple[str, ...] | None


class Glue(Protocol):
    """Where a task of GLUE is read from; a split is None where there is none."""

    def train(self) -> Texts | None: ...

    def val(self) -> Texts | None: ...

    def unlabelled(self) -> dict[str, Texts]: ...


def read(data: DataSpec, seed: int) -> Parts:
    """The splits with labels, limited, and with rows held out for validation where there were none.

    KDError where files are missing or broken, and where there is nothing with labels.
    """
    parts = _tables(data) if data.task is None else _glue(data)
    limits = data.limits
    train, val, test = (
        None if part is None else part.first(count)
        for part, count in ((parts.train, limits.train), (parts.val, limits.val), (parts.test, limits.test))
    )
    if val is not None and data.val is not None:
        raise KDError("the data set has rows for validation of its own; leave 'val' out", path="data.val")
    if train is not None and val is None:
        train, val = hold_out(train, data, seed)
    if train is None and val is None and test is None:
        raise KDError("no split has labels", path="data")
    return Parts(train, val, test, parts.classes)


def read_unlabelled(data: DataSpec) -> dict[str, Texts]:
    """The splits without labels by name, as far as they are there: ``test``, ``test_matched``, ``ax``."""
    if data.task is not None:
        found = _of_glue(data).unlabelled()
    else:
        test = _test(data, data.classes)
        found = {} if test is None or test.labelled else {"test": test.texts}
    return {name: texts.first(data.limits.test) for name, texts in found.items()}


def _of_glue(data: DataSpec) -> Glue:
    assert data.task is not None
    if data.root is None:
        return hub_data(data.task, data.revision)
    return glue_folder(data.task, Path(data.root).expanduser(), data.folder)


def _glue(data: DataSpec) -> Parts:
    """The splits of a task of GLUE, whose test set has no labels."""
    assert data.task is not None
    if data.name == "ax":
        raise KDError("ax has no labels: models of mnli predict it", hint="data.name: mnli", path="data.name")
    source = _of_glue(data)
    train, val = source.train(), source.val()
    if val is None:
        raise KDError(
            f"the dev set of {data.name} is missing from {Path(data.root or '') / data.task.folder}", path="data.root"
        )
    return Parts(train, val, None, data.task.labels)


def _tables(data: DataSpec) -> Parts:
    """The splits of tables of one's own. Classes that the config does not name are those of the training rows."""
    assert data.files is not None
    classes, train, val = data.classes, None, None
    if data.files.train is not None:
        found = read_texts(_path(data.files.train), data, classes)
        train, classes = found.texts, found.classes
    if data.kind != "regression":
        if classes is None:
            raise KDError("without training rows the names of the classes must be given", path="data.labels")
        if len(classes) < (1 if data.kind == MULTI else 2):
            raise KDError(
                f"the training rows have fewer than two classes: {', '.join(classes) or 'none'}", path="data.label"
            )
    if data.files.val is not None:
        val = read_texts(_path(data.files.val), data, classes).texts
    test = _test(data, classes)
    return Parts(train, val, test.texts if test is not None and test.labelled else None, classes)


def _test(data: DataSpec, classes: tuple[str, ...] | None) -> Read | None:
    assert data.files is not None
    if data.files.test is None:
        return None
    return read_texts(_path(data.files.test), data, classes, labelled=False)


def _path(name: str) -> Path:
    return Path(name).expanduser()


def hold_out(train: Texts, data: DataSpec, seed: int) -> tuple[Texts, Texts | None]:
    """Rows to train on and rows to validate, of which every class, or range of scores, has its share."""
    share = VAL_SHARE if data.val is None else data.val
    count = share if isinstance(share, int) else round(len(train) * share)
    if not count:
        return train, None
    if count >= len(train):
        raise KDError(f"{count} of {len(train)} rows for validation leave none to train on", path="data.val")
    order = permutation(len(train), seed, "val").numpy()
    if data.kind != MULTI:
        order = order[np.argsort(train.target.reshape(-1)[order], kind="stable")]
    chosen = np.zeros(len(train), bool)
    chosen[order[(np.arange(count) * 2 + 1) * len(train) // (2 * count)]] = True
    return train.take(np.flatnonzero(~chosen)), train.take(np.flatnonzero(chosen))
