"""A hash of files' contents, for the fingerprint of a split that reads them."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from kd_core.data.file_paths import FilePaths
from kd_core.errors import KDError

WHOLE = 1 << 30
"""Bytes: files that are no more than this together are read from end to end."""
SAMPLED = 2048
"""So many of larger collections are read, at equal distances in their order."""


@dataclass(frozen=True)
class FileContents:
    """Some files below ``root``; as text, a hash of their names, sizes and contents (64 hex digits).

    It is computed when it is first asked for. Of files that are larger than :data:`WHOLE` together, :data:`SAMPLED` are
    read, always the same ones, and of the others the names and sizes count. KDError where a file cannot be read.
    """

    root: Path
    paths: Sequence[Path]

    def __str__(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        try:
            sizes = array("q", (os.stat(text).st_size for text in self._texts()))  # noqa: PTH116  as below
            step = 1 if sum(sizes) <= WHOLE else -(-len(sizes) // SAMPLED)
            state = hashlib.sha256()
            root = f"{self.root}{os.sep}"
            for number, (text, size) in enumerate(zip(self._texts(), sizes, strict=True)):
                state.update(os.fsencode(f"{_below(text, root)}\0{size}\n"))
                if number % step == 0:
                    state.update(_digest(text))
        except OSError as error:
            raise KDError(f"{error.filename}: cannot be read: {error.strerror}") from error
        return state.hexdigest()

    def _texts(self) -> Iterator[str]:
        return self.paths.texts() if isinstance(self.paths, FilePaths) else map(os.fspath, self.paths)


def _below(text: str, root: str) -> str:
    """``text`` relative to the folder ``root``, which ends in a separator."""
    below = text[len(root) :]
    plain = text.startswith(root) and not below.startswith(".") and f"{os.sep}." not in below
    return below if plain else os.path.relpath(text, root)


def _digest(path: str) -> bytes:
    state = hashlib.sha256()
    with open(path, "rb") as file:  # noqa: PTH123  a Path for each of many files
        while block := file.read(1 << 20):
            state.update(block)
    return state.digest()
