"""Paths of many files in two arrays: an image folder's, of which there may be tens of millions."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray


class FileNames:
    """N names, one after another in one array of bytes. Each counts its bytes and 8 more."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded, ends = bytearray(), array("q")
        for name in names:
            encoded += os.fsencode(name)
            ends.append(len(encoded))
        self.bytes: NDArray[np.uint8] = np.frombuffer(encoded, np.uint8)
        self.ends: NDArray[np.int64] = np.array(ends, np.int64)

    def __len__(self) -> int:
        return len(self.ends)


class FilePaths(Sequence[Path]):
    """The files of some folders, folder by folder: a sequence of paths, each made when it is asked for.

    ``Path`` objects take about 400 bytes each, and a worker process that reads a list of them copies it
    (pytorch/pytorch issue 13246).
    """

    def __init__(self, names: Mapping[Path, FileNames]) -> None:
        self.folders = [str(folder) for folder in names]
        counts = [len(part) for part in names.values()]
        sizes = [len(part.bytes) for part in names.values()]
        self._ends_of_folders = np.cumsum(counts, dtype=np.int64)
        self._bytes = np.concatenate([np.empty(0, np.uint8), *(part.bytes for part in names.values())])
        shifts: NDArray[np.int64] = np.repeat(np.cumsum([0, *sizes])[:-1], counts)
        self._ends = np.concatenate([np.empty(0, np.int64), *(part.ends for part in names.values())]) + shifts

    @classmethod
    def of(cls, folder: Path, paths: Iterable[Path]) -> FilePaths:
        """Some files, most of them below a folder."""
        root = f"{folder}{os.sep}"
        texts = map(os.fspath, paths)
        return cls({folder: FileNames(_below(text, root) or os.path.abspath(text) for text in texts)})  # noqa: PTH100

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        """One path, or a list of some."""
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # IndexError where there is none, and the end of an iteration
        start = self._ends[row - 1] if row else 0
        name = os.fsdecode(self._bytes[start : self._ends[row]].tobytes())
        return Path(self.folders[int(np.searchsorted(self._ends_of_folders, row, "right"))], name)

    def texts(self) -> Iterator[str]:
        """The paths as text, in their order, without an object for each."""
        start = 0
        for folder, (first, end) in zip(self.folders, pairwise([0, *self._ends_of_folders.tolist()]), strict=True):
            for name_end in self._ends[first:end].tolist():
                yield os.path.join(folder, os.fsdecode(self._bytes[start:name_end].tobytes()))  # noqa: PTH118
                start = name_end


def _below(text: str, root: str) -> str:
    """What ``text`` is below the folder ``root``, which ends in a separator; nothing where it is not below."""
    return text[len(root) :] if text.startswith(root) else ""
