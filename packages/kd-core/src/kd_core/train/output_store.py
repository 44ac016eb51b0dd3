"""Values of samples on disk: a record for each sample and view, with a checksum of its own.

A file holds one view of all samples. Any number of processes read and write it at the same time: a record that is not
there, half written or damaged has another checksum, and counts as absent.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.errors import KDError
from kd_core.files import TEMPORARY, json_text, user_path, write_errors, write_whole

HEAD = 4
"""Bytes of a record's checksum."""
DESCRIPTION = "kept.json"
ROWS = ".rows"
SUFFIX = ".view"
Bytes = NDArray[np.uint8]


def cache_folder() -> Path:
    """Where outputs of frozen models are kept: ``outputs`` in ``$KD_CACHE``, by default in ``~/.cache/kd``."""
    return user_path(os.environ.get("KD_CACHE", "~/.cache/kd")) / "outputs"


@dataclass(frozen=True)
class Part:
    """A tensor of a record: its type, and its shape for one sample."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """The size of one."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.type.itemsize

    @property
    def type(self) -> torch.dtype:
        """The dtype, as torch has it."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found


@dataclass(frozen=True)
class Layout:
    """What a record consists of. ``structure`` is a nesting of lists and mappings in which numbers stand for parts."""

    parts: tuple[Part, ...]
    structure: Any

    @property
    def bytes(self) -> int:
        """The size of a record without its checksum."""
        return sum(part.bytes for part in self.parts)

    def packed(self, tensors: Sequence[Tensor]) -> Bytes:
        """The tensors (B, ...) of the parts as B records (B, bytes)."""
        rows = [
            tensor.cpu().contiguous().flatten(1) if tensor.ndim > 1 else tensor.cpu()[:, None] for tensor in tensors
        ]
        return np.concatenate([row.view(torch.uint8).numpy() for row in rows], axis=1)

    def unpacked(self, records: Bytes) -> list[Tensor]:
        """The tensors (B, ...) of B records."""
        tensors, start = [], 0
        for part in self.parts:
            column = np.ascontiguousarray(records[:, start : start + part.bytes])
            tensors.append(torch.from_numpy(column).view(part.type).reshape(len(records), *part.shape))
            start += part.bytes
        return tensors


class OutputStore:
    """The records of one folder, by view and row.

    ``facts`` are told to people by ``cache list``. ``layout`` is None until the first records were written, by
    whichever process.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.folder, self.facts = folder, dict(facts)
        self.layout: Layout | None = None
        self.fault: str | None = None
        """What was wrong with the folder when it was opened: its records count as absent then."""
        self._views: dict[int, _View] = {}
        self._open()

    def _open(self) -> None:
        if not self.folder.exists():
            return
        description = read_description(self.folder)
        if description is None and not any(self.folder.glob(f"*{SUFFIX}")):
            return  # another process is about to write it
        if description is None:
            self.fault = f"{self.folder / DESCRIPTION} is missing or damaged"
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        self.layout = description[0]
        os.utime(self.folder / DESCRIPTION)  # `cache prune` begins with what was not used for longest

    def read(self, view: int, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """The tensors of the rows (B,), arbitrary where they are absent, and which are there (B,), a bool."""
        if self.layout is None:
            self._open()  # another process may have written the first ones
        if self.layout is None:
            return [], torch.zeros(len(rows), dtype=torch.bool)
        records, there = self._view(view).read(rows.numpy())
        return self.layout.unpacked(records), torch.from_numpy(there)

    def write(self, view: int, rows: Tensor, layout: Layout, tensors: Sequence[Tensor]) -> None:
        """Keep the tensors (B, ...) of the rows (B,); KDError where others were kept before of another layout."""
        if self.layout is None:
            with write_errors(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                text = described(layout, self.facts)
                write_whole(self.folder, lambda file: file.write(text.encode()), lambda _: DESCRIPTION)
            self.layout = layout
        if layout != self.layout:
            before, now = (", ".join(str(part.shape) for part in each.parts) for each in (self.layout, layout))
            raise KDError(f"keeps values of one shape for all samples, not {before} for one and {now} for another")
        with write_errors(self.folder):
            self._view(view).write(rows.numpy(), layout.packed(tensors))

    def rows(self, split: str) -> Tensor | None:
        """The rows of a split in the order in which all were kept, as :meth:`keep_rows` got them; None where unknown.

        ``split`` is its fingerprint.
        """
        try:
            content = (self.folder / f"{split[:16]}{ROWS}").read_bytes()
        except OSError:
            return None
        told, rows = int.from_bytes(content[:HEAD], "little"), content[HEAD:]
        if len(rows) % 8 or not rows or told != zlib.crc32(rows):
            return None
        return torch.frombuffer(bytearray(rows), dtype=torch.int64)

    def keep_rows(self, split: str, rows: Tensor) -> None:
        """Note which rows of a split are kept, in which order."""
        content = rows.numpy().tobytes()
        with write_errors(self.folder):
            head = zlib.crc32(content).to_bytes(HEAD, "little")
            write_whole(self.folder, lambda file: file.write(head + content), lambda _: f"{split[:16]}{ROWS}")

    def _view(self, number: int) -> _View:
        assert self.layout is not None
        if number not in self._views:
            self._views[number] = _View(view_file(self.folder, number), self.layout.bytes)
        return self._views[number]


class _View:
    """The file of one view: record after record, that of row R at R times the size of a record."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size + HEAD
        self._mapped: Bytes = np.zeros((0, self.size), np.uint8)

    def read(self, rows: NDArray[np.int64]) -> tuple[Bytes, NDArray[np.bool_]]:
        """The contents (B, size) of records, and whether they are there (B,)."""
        records = np.zeros((len(rows), self.size), np.uint8)
        mapped = self._map()
        inside = rows < len(mapped)
        records[inside] = mapped[rows[inside]]
        sums = np.ascontiguousarray(records[:, :HEAD]).view(np.uint32)[:, 0]
        there = np.fromiter((int(s) == checksum(r[HEAD:]) for s, r in zip(sums, records, strict=True)), bool, len(rows))
        return records[:, HEAD:], there

    def write(self, rows: NDArray[np.int64], contents: Bytes) -> None:
        """Put records into their places; OSError where the disk does not take them."""
        self.path.touch()
        with self.path.open("r+b", buffering=0) as file:
            for row, content in zip(rows.tolist(), contents, strict=True):
                file.seek(row * self.size)
                file.write(checksum(content).to_bytes(HEAD, "little") + content.tobytes())

    def _map(self) -> Bytes:
        """The whole records of the file as it is now."""
        try:
            count = self.path.stat().st_size // self.size
        except OSError:
            count = 0
        if count != len(self._mapped):
            self._mapped = (
                np.memmap(self.path, np.uint8, "r", shape=(count, self.size))
                if count
                else np.zeros((0, self.size), np.uint8)
            )
        return self._mapped


def checksum(content: Bytes) -> int:
    """A checksum of a record's content, never 0: that is what the holes of a file have."""
    return zlib.crc32(np.ascontiguousarray(content).data) or 1


def view_file(folder: Path, number: int) -> Path:
    """The file of a view."""
    return folder / f"{number:04d}{SUFFIX}"


def described(layout: Layout, facts: Mapping[str, Any]) -> str:
    """The text of a folder's description, with a checksum of what decides how its records are read."""
    told = {"parts": [asdict(part) for part in layout.parts], "structure": layout.structure}
    text = json_text(told)
    return json_text({**json.loads(text), "crc32": zlib.crc32(text.encode()), **facts}, indent=2) + "\n"


def read_description(folder: Path) -> tuple[Layout, dict[str, Any]] | None:
    """The layout of a folder's records and its facts; None where the description is missing or damaged."""
    try:
        facts = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        told = {"parts": facts.pop("parts"), "structure": facts.pop("structure")}
        if facts.pop("crc32") != zlib.crc32(json_text(told).encode()):
            return None
        parts = tuple(Part(part["dtype"], tuple(part["shape"])) for part in told["parts"])
        return Layout(parts, told["structure"]), facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


@dataclass(frozen=True)
class Kept:
    """What a folder holds."""

    folder: Path
    facts: Mapping[str, Any]
    """``model``, ``wire``, ``samples`` and so on; empty where the description is damaged."""
    bytes: int
    """What it takes on the disk, without holes."""
    records: int
    """How many are there and whole, in all views."""
    damaged: int
    """How many have another checksum than their content."""
    views: int
    used: float
    """When a run last opened it, in seconds since 1970."""


def kept(*, verify: bool = False) -> list[Kept]:
    """What is kept in :func:`cache_folder`, the longest unused first. Records are counted with ``verify`` alone."""
    root = cache_folder()
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return sorted((_kept(folder, verify) for folder in folders), key=lambda each: each.used)


def _kept(folder: Path, verify: bool) -> Kept:
    files = [path for path in folder.iterdir() if path.is_file()]
    description = read_description(folder)
    taken = sum(getattr(path.stat(), "st_blocks", -(-path.stat().st_size // 512)) * 512 for path in files)
    views = [path for path in files if path.suffix == SUFFIX]
    there = damaged = 0
    if verify and description is not None:
        for path in views:
            for sums in _sums(path, description[0].bytes + HEAD):
                there, damaged = there + sums[0], damaged + sums[1]
    note = folder / DESCRIPTION
    used = (note if note.exists() else folder).stat().st_mtime
    return Kept(folder, {} if description is None else description[1], taken, there, damaged, len(views), used)


def _sums(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Of each block of records, how many are whole and how many damaged."""
    with path.open("rb") as file:
        while block := file.read(size * 1024):
            for start in range(0, len(block) - size + 1, size):
                told = int.from_bytes(block[start : start + HEAD], "little")
                if told:
                    whole = told == (zlib.crc32(block[start + HEAD : start + size]) or 1)
                    yield int(whole), int(not whole)


def limit() -> int | None:
    """How many bytes may be kept in all, by ``$KD_CACHE_LIMIT``, such as ``20GB``; None without it.

    KDError where that is not a size.
    """
    text = os.environ.get("KD_CACHE_LIMIT")
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise KDError(f"KD_CACHE_LIMIT is {text!r}, which is not a size", hint="write it as in 20GB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


def room(wanted: int, own: Collection[Path]) -> int:
    """How many of ``wanted`` bytes there is room for; what was not used for longest, not one's ``own``, makes room."""
    root = cache_folder()
    there = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(there).free
    most = limit()
    if most is None:
        return min(wanted, free)
    folders = kept()
    taken = sum(each.bytes for each in folders)
    for each in folders:
        if taken + wanted > most and each.folder not in own:
            remove(each.folder)
            taken -= each.bytes
    return max(0, min(wanted, most - taken, free))


def remove(folder: Path) -> None:
    """Remove a folder. A run that reads it goes on with what it has open, and runs its model for what it has not."""
    doomed = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    with write_errors(folder):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
