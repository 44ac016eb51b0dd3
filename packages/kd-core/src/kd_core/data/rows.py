"""Subsets of data sets whose samples are read one by one, by the numbers of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.screening import Readable, skipped
from kd_core.data.sources import Parts

T_co = TypeVar("T_co", covariant=True)
"""A sample."""


class RowReader(Protocol[T_co]):
    """N samples that are read one by one."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """The name of a sample in messages and pictures: ``2007_000033``."""
        ...

    def paths(self, row: int) -> Sequence[Path]:
        """The files that a row is read from, each of its own; none where it is made or lies in a file of many."""
        ...

    def read(self, row: int) -> T_co:
        """A sample; KDError naming a broken file."""
        ...


class RowSubset(Generic[T_co]):
    """Some rows of a data set, ascending: ``chosen`` ones, or all. A subclass says of which data set, and takes."""

    chosen: NDArray[np.int64] | None

    @property
    def reader(self) -> RowReader[T_co]:
        """The whole data set."""
        raise NotImplementedError

    @property
    def candidates(self) -> NDArray[np.int64]:
        """The rows to choose from: ``chosen`` ones, or all."""
        return np.arange(len(self.reader)) if self.chosen is None else self.chosen

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the rows."""
        return self.candidates

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> None:
        """A sample has many classes."""
        return None

    def name(self, position: int) -> str:
        """The name, in messages and pictures, of the sample at a position."""
        return self.reader.name(int(self.rows[position]))

    def read(self, position: int) -> T_co:
        """The sample at a position; KDError naming a broken file."""
        return self.reader.read(int(self.rows[position]))

    def files(self) -> Readable | None:
        """The samples as they are read from files, None where they are made."""
        if not len(self) or not self.reader.paths(int(self.rows[0])):
            return None
        return Readable(self.read, lambda position: self.reader.paths(int(self.rows[position])), range(len(self)))

    def take(self: R, positions: Tensor) -> R:
        """Those at some positions."""
        raise NotImplementedError


R = TypeVar("R", bound=RowSubset[Any])


def skip_unreadable(parts: Parts[R]) -> Parts[R]:
    """A data set as its authors split it, without the samples that cannot be read, and a warning that names these."""
    notes, kept = list(parts.notes), {}
    for name, part in parts.items().items():
        files = part.files()
        errors = {} if files is None else files.errors(whole=True)
        notes += skipped(errors.values(), len(part))
        positions = [position for position in range(len(part)) if position not in errors]
        kept[name] = part.take(torch.tensor(positions, dtype=torch.int64))
    return parts.replaced(kept, notes)
