"""A hash of files' contents, for the fingerprint of a split that reads them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

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
            sizes = [path.stat().st_size for path in self.paths]
            step = 1 if sum(sizes) <= WHOLE else -(-len(sizes) // SAMPLED)
            state = hashlib.sha256()
            for number, (path, size) in enumerate(zip(self.paths, sizes, strict=True)):
                state.update(os.fsencode(f"{os.path.relpath(path, self.root)}\0{size}\n"))
                if number % step == 0:
                    state.update(_digest(path))
        except OSError as error:
            raise KDError(f"{error.filename}: cannot be read: {error.strerror}") from error
        return state.hexdigest()


def _digest(path: Path) -> bytes:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.digest()
