"""Texts with their labels, as they were read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.errors import KDError
from kd_core.notes import Note

UNLABELLED = -100
Locate = Callable[[int], str]
"""Names where a row was read, for errors: ``train.tsv:12``."""


@dataclass(frozen=True)
class Texts:
    """N samples of a data set of ``rows`` rows.

    ``columns`` are the texts of all rows, one or two Arrow arrays of strings. ``index`` (N,) int64 holds the rows that
    are these samples, and ``target`` their labels: (N,) int64, for multi-label (N, C) and for regression (N, 1)
    float32. -100, or NaN in a regression, stands for a label that is not known. ``group`` (N,) int64 tells sets within
    a split apart (MNLI: 0 matched, 1 mismatched).
    """

    columns: tuple[pa.LargeStringArray, ...]
    target: NDArray[np.generic]
    index: NDArray[np.int64]
    group: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def rows(self) -> int:
        """Rows of the data set that these samples are of."""
        return len(self.columns[0])

    @property
    def labels(self) -> Tensor | None:
        """(N,) the class of each text; None where a text has several, or a number."""
        return None if self.target.ndim != 1 else torch.from_numpy(self.target)

    @property
    def chosen(self) -> tuple[pa.LargeStringArray, ...]:
        """The texts of these samples alone, one array or two of length N."""
        if np.array_equal(self.index, np.arange(self.rows)):
            return self.columns
        return tuple(column.take(pa.array(self.index)) for column in self.columns)

    def take(self, positions: Tensor) -> Texts:
        """The samples at these positions, in this order."""
        at = positions.numpy()
        group = None if self.group is None else self.group[at]
        return replace(self, target=self.target[at], index=self.index[at], group=group)

    def digest(self) -> str:
        """A hash of texts, choice and labels."""
        state = hashlib.sha256(digest(self.columns).encode())
        for array in (self.index, self.target, self.group):
            if array is not None:
                state.update(f"{array.dtype.str}{array.shape}".encode())
                state.update(np.ascontiguousarray(array).data)
        return state.hexdigest()[:16]


def texts_of(
    columns: Sequence[Sequence[str]],
    target: NDArray[np.generic],
    locate: Locate,
    group: NDArray[np.int64] | None = None,
) -> Texts:
    """All rows of a table, whose texts are ``columns``; KDError where a text is not valid Unicode."""
    return Texts(tuple(strings(column, locate) for column in columns), target, np.arange(len(target)), group)


def strings(column: Sequence[str], locate: Locate) -> pa.LargeStringArray:
    """Strings as one Arrow array; KDError naming the row where one holds half a surrogate pair, as JSON can."""
    try:
        return pa.array(column, pa.large_string())
    except (UnicodeEncodeError, pa.ArrowInvalid):
        row = next(row for row, text in enumerate(column) if not encodes(text))
        raise KDError(f"{locate(row)}: the text is not valid Unicode") from None


def encodes(text: str) -> bool:
    """Whether a string can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def empty_notes(texts: Texts | None, place: str) -> list[Note]:
    """What to say of texts without a letter."""
    import pyarrow.compute as pc

    columns: tuple[Any, ...] = () if texts is None else texts.columns
    counts = [pc.sum(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py() or 0 for column in columns]
    return [
        Note.warning(f"{place}: {count:,} of {len(column):,} texts {'is' if count == 1 else 'are'} empty")
        for count, column in zip(counts, columns, strict=True)
        if count
    ]


def missing_targets(count: int, regression: bool) -> NDArray[np.generic]:
    """Targets of ``count`` samples without labels: (N,) of -100, for a regression (N, 1) of NaN."""
    return np.full((count, 1), np.nan, np.float32) if regression else np.full(count, UNLABELLED, np.int64)


def concatenated(first: Texts, second: Texts) -> Texts:
    """The rows of one table followed by those of another, in groups 0 and 1."""
    group = np.repeat(np.arange(2), [len(first), len(second)])
    columns = tuple(pa.concat_arrays(pair) for pair in zip(first.columns, second.columns, strict=True))
    return Texts(columns, np.concatenate([first.target, second.target]), np.arange(len(group)), group)


def digest(columns: Sequence[pa.LargeStringArray]) -> str:
    """A hash of texts, which does not depend on how Arrow holds them."""
    state = hashlib.sha256()
    for column in columns:
        _, offsets, content = column.buffers()
        if not len(column):
            continue
        bounds = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        state.update((bounds - bounds[0]).data)
        if content is not None:
            state.update(memoryview(content)[bounds[0] : bounds[-1]])
    return state.hexdigest()
