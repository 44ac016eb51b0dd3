"""Rows of Parquet files that are read one row group at a time, and kept in a bounded cache of the machine."""

from __future__ import annotations

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Gt
from filelock import FileLock
from numpy.typing import NDArray

from kd_core.config.schema import PositiveInt, StrictModel
from kd_core.data.file_ranges import StoredFile
from kd_core.data.packed import Packed
from kd_core.data.parquet_index import ParquetIndex, footer_of, metadata_of, read_group, stream_folder
from kd_core.errors import KDError
from kd_core.files import write_errors
from kd_core.notes import Note

VERSION = 1
"""Of the cache, raised with every change of what it holds."""
GIGABYTE = 10**9
LOOKED = 20
"""Windows that tell whether the rows lie in the order of classes."""
LEFT_BEHIND = 3600
"""Seconds after which a half-written file is one of a process that was killed."""
LOCKS = 64
"""Row groups are locked by so many files: two that share one are read one after the other."""


class Streaming(StrictModel):
    """How data that stay on the hub are read."""

    window: PositiveInt = 16
    """Number of row groups that are open at a time: samples are shuffled among those of so many."""
    cache: Annotated[float, Gt(0)] = 10
    """Gigabytes of row groups that are kept on the disk of this machine, those that were used last."""


class RowGroups:
    """The rows of some Parquet files, in their order. Row i maps each of ``columns`` to a cell.

    ``fingerprint`` is a hash of the files' names and footers: nothing else is read for it.

    The row group of a row is fetched when it is first asked for, unpacked into ``streams`` in ``$KD_CACHE``, and read
    from there by every process: it is fetched once for all processes of a machine, for as long as the cache keeps it.
    """

    def __init__(
        self,
        files: Sequence[StoredFile],
        indices: Sequence[ParquetIndex],
        columns: Sequence[str],
        label: str | None,
        streaming: Streaming,
    ) -> None:
        groups = [len(index.rows) for index in indices]
        self.files, self.columns, self.label, self.streaming = Packed(files), list(columns), label, streaming
        self.file = np.repeat(np.arange(len(groups)), groups)
        self.number = np.concatenate([np.arange(count) for count in groups])
        self.ranges = np.concatenate([index.ranges for index in indices])
        self.ends = np.cumsum(np.concatenate([index.rows for index in indices]))
        self.fingerprint = _digest(files, indices)
        self._open: OrderedDict[int, Any] = OrderedDict()
        largest = int(max((index.sizes.max() for index in indices if len(index.sizes)), default=0))
        need = 2 * streaming.window * largest / GIGABYTE
        if need > streaming.cache:
            hint = f"`streaming: {{cache: {1.1 * need:.2g}}}`, or a smaller window"
            message = f"is {streaming.cache:g} GB, and twice {streaming.window} row groups have {need:.2g} GB"
            raise KDError(message, hint=hint, path="streaming.cache")

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}  # another process opens files of its own

    def group_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row group of each row."""
        return np.searchsorted(self.ends, rows, side="right")

    def name(self, row: int) -> str:
        """``hf://datasets/me/birds@COMMIT/train-0.parquet: row 17``, counted in the file."""
        group = int(self.group_of(np.array([row]))[0])
        first = int(np.flatnonzero(self.file == self.file[group])[0])
        return f"{self.files[int(self.file[group])].path}: row {row - (int(self.ends[first - 1]) if first else 0)}"

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The cells of a row, images as a mapping of ``bytes`` and ``path``. KDError where it cannot be read."""
        group = int(self.group_of(np.array([row]))[0])
        table = self._open.get(group)
        if table is None:
            table = self._open[group] = self._cached(group)
            if len(self._open) > 2 * self.streaming.window:
                self._open.popitem(last=False)
        self._open.move_to_end(group)
        place = row - (int(self.ends[group - 1]) if group else 0)
        return {column: table.column(column)[place].as_py() for column in self.columns}

    def arranged(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of ``rows`` (N,) in the order in which they are read: a pure function of ``rows``.

        Row groups follow one another as their first rows do, and the rows of each are spread, as they are in ``rows``,
        over the time in which ``window`` groups begin. So about so many groups are in use at a time, and one after the
        other is fetched. Rows in ascending order stay as they are.
        """
        _, first, group = np.unique(self.group_of(rows), return_index=True, return_inverse=True)
        begin = np.argsort(np.argsort(first))
        spread = self.streaming.window * (np.arange(len(rows)) / max(len(rows), 1))
        return np.argsort(begin[group] + spread, kind="stable")

    def sorted_note(self, labels: NDArray[np.int64]) -> list[Note]:
        """A warning where so few of the classes are in a window that the order of the rows must be that of the classes.

        ``labels`` (N,) are the classes of all rows, negative where there is none. At most :data:`LOOKED` windows are
        compared with as many rows of the whole.
        """
        count, window = len(self.ends), self.streaming.window
        known = labels[labels >= 0]
        if count <= window or not len(known):
            return []
        rng, found, expected = np.random.default_rng(0), 0, 0
        bounds = np.concatenate([[0], self.ends])
        for _ in range(LOOKED):
            groups = rng.choice(count, window, replace=False)
            held = np.concatenate([labels[bounds[group] : bounds[group + 1]] for group in groups])
            found += len(np.unique(held[held >= 0]))
            expected += len(np.unique(rng.choice(known, len(held))))
        if 2 * found >= expected:
            return []
        text = (
            f"the rows lie in the order of their classes: {window} row groups, among which samples are shuffled, hold"
            f" {found / LOOKED:.3g} classes in the mean, and {expected / LOOKED:.3g} if rows were in random order;"
            " `streaming: {window: N}` shuffles among more"
        )
        return [Note.warning(text)]

    def _cached(self, group: int) -> Any:
        """The table of a row group, mapped from the cache's file."""
        folder, file = stream_folder(), self.files[int(self.file[group])]
        facts = (VERSION, *file, int(self.number[group]), tuple(self.columns))
        key = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape")).hexdigest()[:32]
        path = folder / f"{key}.arrow"
        if (table := _mapped(path)) is not None:
            return table
        with write_errors(f"row groups to {folder}"):
            folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{int(key, 16) % LOCKS}.lock"):
            if (table := _mapped(path)) is not None:  # which another process has fetched meanwhile
                return table
            fetched = self._fetched(file, group)
            make_room(folder, int(self.streaming.cache * GIGABYTE) - fetched.nbytes)
            _write(path, fetched)
            table = _mapped(path)
        return fetched if table is None else table

    def _fetched(self, file: StoredFile, group: int) -> Any:
        from datasets import Image

        metadata = metadata_of(file, footer_of(file, self.columns, self.label))
        spans = {
            name: (int(start), int(end)) for name, (start, end) in zip(self.columns, self.ranges[group], strict=True)
        }
        table = read_group(file, metadata, int(self.number[group]), spans).replace_schema_metadata(None)
        for place, name in enumerate(self.columns):
            column = table.column(name).combine_chunks()
            table = table.set_column(place, name, Image(decode=False).cast_storage(column))
        return table


def _digest(files: Sequence[StoredFile], indices: Sequence[ParquetIndex]) -> str:
    state = hashlib.sha256()
    for file, index in zip(files, indices, strict=True):
        state.update(f"{file.name}\0{file.size}\0".encode("utf-8", "surrogateescape") + index.footer.tobytes())
    return state.hexdigest()


def make_room(folder: Path, limit: int) -> None:
    """Remove the row groups that were not used for longest, until those in ``folder`` have at most ``limit`` bytes."""
    found = []
    for entry in os.scandir(folder):
        with suppress(OSError):  # another process has removed it
            status = entry.stat()
            left_behind = entry.name.endswith(".part") and time.time() - status.st_mtime > LEFT_BEHIND
            if entry.name.endswith(".arrow") or left_behind:
                found.append((status.st_mtime_ns, status.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        Path(path).unlink(missing_ok=True)
        total -= size


def _mapped(path: Path) -> Any:
    """The table in a file, whose pages the processes of the machine share; None where it is not there, or not whole."""
    import pyarrow

    try:
        with pyarrow.memory_map(str(path)) as source:
            table = pyarrow.ipc.open_file(source).read_all()
        os.utime(path)  # when it was last used
    except (OSError, pyarrow.ArrowException):
        return None
    return table


def _write(path: Path, table: Any) -> None:
    import pyarrow

    temporary = path.with_name(f"{path.stem}.{os.getpid()}.part")
    with write_errors(f"a row group to {path.parent}"):
        with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        temporary.replace(path)
