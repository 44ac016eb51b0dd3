"""Many small objects in one array, which worker processes share instead of copying it."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

Item = TypeVar("Item")


class Packed(Sequence[Item]):
    """A sequence whose items lie pickled in one array, and are made anew each time they are asked for.

    A list of objects that the main process hands to worker processes is copied page by page as they count references to
    its items (pytorch/pytorch issue 13246): with as many workers, an image folder's paths lay in memory as many times.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
        self._ends = np.cumsum([len(item) for item in pickled], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(pickled), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """One item, or a list of some."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # IndexError where there is none, and the end of an iteration
        start = self._ends[row - 1] if row else 0
        return pickle.loads(self._bytes[start : self._ends[row]].data)
