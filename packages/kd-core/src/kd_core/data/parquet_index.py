"""What the footer of a Parquet file and one of its columns tell, kept in the user's cache."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kd_core.data.file_ranges import StoredFile
from kd_core.errors import ConfigError, ConfigProblem, KDError, RunInterrupted
from kd_core.files import user_path, write_errors
from kd_core.repository import first_line

VERSION = 1
"""Of the index, raised with every change of what it holds."""
MAGIC = b"PAR1"
"""What a Parquet file begins and ends with."""
END = 1 << 16
"""Bytes at the end of a file that are read first: most footers are no longer."""
READERS = 16
"""Files whose footers are read at once: each waits for the network."""
PADDING = 100
"""Bytes behind a column that old writers count with it."""


class ParquetIndex(NamedTuple):
    """The G row groups of a Parquet file."""

    rows: NDArray[np.int64]
    """(G,) how many rows each has."""
    sizes: NDArray[np.int64]
    """(G,) bytes of the columns that are read in training, unpacked."""
    ranges: NDArray[np.int64]
    """(G, columns, 2) where these columns begin and end in the file."""
    labels: NDArray[np.uint8]
    """The labels of all rows as the bytes of an Arrow stream; empty where no column of labels was asked for."""
    footer: NDArray[np.uint8]
    """The end of the file, from the footer on."""


class Pieces(io.RawIOBase):
    """A file of which some pieces are known, ``{first byte: bytes}``; other bytes are read as an error."""

    def __init__(self, pieces: dict[int, bytes], size: int) -> None:
        self.pieces, self.length, self.place = pieces, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The place that is read next."""
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place."""
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.length}[whence]
        return self.place

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        end = self.length if size < 0 else self.place + size
        start = max((start for start in self.pieces if start <= self.place), default=self.place)
        part = self.pieces.get(start, b"")[self.place - start : end - start]
        if part or end == self.place:
            self.place += len(part)
            return part
        raise OSError(f"it asks for bytes {self.place:,} to {end:,}, which are of no column")


def stream_folder() -> Path:
    """``streams`` in ``$KD_CACHE``, by default in ``~/.cache/kd``."""
    return user_path(os.environ.get("KD_CACHE", "~/.cache/kd")) / "streams"


def parquet_indices(files: Sequence[StoredFile], columns: Sequence[str], label: str | None) -> list[ParquetIndex]:
    """The index of each file, several read at once; ConfigError that names all files that are no whole Parquet files.

    RunInterrupted where the network fails; what was read until then is kept.
    """

    def attempt(file: StoredFile) -> ParquetIndex | KDError:
        try:
            return parquet_index(file, columns, label)
        except RunInterrupted:
            raise
        except KDError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        try:
            results = list(pool.map(attempt, files))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    problems = list[ConfigProblem]()
    for result in results:
        problems += result.problems if isinstance(result, KDError) else []
    if problems:
        raise ConfigError(problems)
    return [result for result in results if isinstance(result, ParquetIndex)]


def parquet_index(file: StoredFile, columns: Sequence[str], label: str | None) -> ParquetIndex:
    """The index of a file, from the cache where it was read before."""
    kept = _place(file, columns, label)
    with suppress(Exception), np.load(kept, allow_pickle=False) as arrays:  # not there, or not whole: made anew
        return ParquetIndex(*(arrays[name] for name in ParquetIndex._fields))
    index = read_index(file, columns, label)
    with write_errors(f"the index of {file.name} to {kept.parent}"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        temporary = kept.with_name(f"{kept.stem}.{os.getpid()}.part")
        with temporary.open("wb") as target:
            np.savez(target, **index._asdict())
        temporary.replace(kept)
    return index


def footer_of(file: StoredFile, columns: Sequence[str], label: str | None) -> bytes:
    """The footer of a file, from its index in the cache or else from the file."""
    with suppress(Exception), np.load(_place(file, columns, label), allow_pickle=False) as arrays:
        footer: bytes = arrays["footer"].tobytes()
        return footer
    return read_footer(file)


def _place(file: StoredFile, columns: Sequence[str], label: str | None) -> Path:
    """Where the index of a file is kept."""
    facts = repr((VERSION, *file, tuple(columns), label)).encode("utf-8", "surrogateescape")
    return stream_folder() / "index" / f"{hashlib.sha256(facts).hexdigest()[:32]}.npz"


def read_index(file: StoredFile, columns: Sequence[str], label: str | None) -> ParquetIndex:
    """The index of a file, from its footer and its labels; KDError where it is damaged or has no such column."""
    footer = read_footer(file)
    metadata = metadata_of(file, footer)
    names = {metadata.schema.column(number).path.split(".")[0] for number in range(metadata.num_columns)}
    for column in (*columns, *([] if label is None else [label])):
        if column not in names:
            raise KDError(f"{file.path}: there is no column {column!r}; there are {', '.join(sorted(names))}")
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [
        sum(chunk.total_uncompressed_size for name in columns for chunk in chunks(group, name)) for group in groups
    ]
    ranges = [[column_range(group, name) for name in columns] for group in groups]
    labels = b"" if label is None else _labels(file, metadata, label)
    return ParquetIndex(
        np.array([group.num_rows for group in groups], np.int64),
        np.array(sizes, np.int64),
        np.array(ranges, np.int64).reshape(len(groups), len(columns), 2),
        np.frombuffer(labels, np.uint8),
        np.frombuffer(footer, np.uint8),
    )


def read_footer(file: StoredFile) -> bytes:
    """The end of a Parquet file from its footer on; KDError where there is none."""
    end = file.read(max(file.size - END, 0), file.size)
    if len(end) < 12 or end[-4:] != MAGIC:
        raise KDError(f"{file.path}: is not a whole Parquet file")
    length = int.from_bytes(end[-8:-4], "little") + 8
    if length > file.size:
        raise KDError(f"{file.path}: is not a whole Parquet file")
    return end[-length:] if length <= len(end) else file.read(file.size - length, file.size)


def metadata_of(file: StoredFile, footer: bytes) -> Any:
    """What a footer says of the file; KDError where it is damaged."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        return read_metadata(io.BytesIO(footer))
    except (ArrowException, OSError) as error:
        raise KDError(f"{file.path}: is not a whole Parquet file ({first_line(error)})") from error


def features_of(file: StoredFile) -> Any:
    """What the columns of a file are, in the datasets library's words."""
    from datasets import Features

    return Features.from_arrow_schema(metadata_of(file, read_footer(file)).schema.to_arrow_schema())


def chunks(group: Any, column: str) -> list[Any]:
    """The parts of a column of a row group: one, or of a structure those of its fields."""
    parts = (group.column(number) for number in range(group.num_columns))
    return [part for part in parts if part.path_in_schema.split(".")[0] == column]


def column_range(group: Any, column: str) -> tuple[int, int]:
    """Where a column of a row group begins and ends in the file."""
    starts, ends = [], []
    for part in chunks(group, column):
        start = min(part.data_page_offset, part.dictionary_page_offset or part.data_page_offset)
        starts.append(start)
        ends.append(start + part.total_compressed_size)
    return min(starts), max(ends)


def read_group(file: StoredFile, metadata: Any, number: int, ranges: dict[str, tuple[int, int]]) -> Any:
    """The columns of ``ranges`` of a row group, an Arrow table; KDError where it is damaged."""
    from pyarrow import ArrowException, PythonFile
    from pyarrow.parquet import ParquetFile

    last = file.size - metadata.serialized_size
    pieces = {start: file.read(start, max(end, min(end + PADDING, last))) for start, end in ranges.values()}
    try:
        source = PythonFile(Pieces(pieces, file.size), mode="r")
        parquet = ParquetFile(source, metadata=metadata, pre_buffer=False)
        return parquet.read_row_group(number, columns=list(ranges), use_threads=False)
    except (ArrowException, OSError) as error:
        raise KDError(f"{file.path}: row group {number} is damaged ({first_line(error)})") from error


def _labels(file: StoredFile, metadata: Any, label: str) -> bytes:
    """A column of all row groups as the bytes of an Arrow stream."""
    import pyarrow

    tables = []
    for number in range(metadata.num_row_groups):
        spans = {label: column_range(metadata.row_group(number), label)}
        tables.append(read_group(file, metadata, number, spans))
    sink = pyarrow.BufferOutputStream()
    whole = pyarrow.concat_tables(tables) if tables else metadata.schema.to_arrow_schema().empty_table().select([label])
    whole = whole.replace_schema_metadata(None)
    with pyarrow.ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def labels_of(indices: Sequence[ParquetIndex]) -> Any:
    """The labels of all rows of some files, an Arrow array in chunks."""
    import pyarrow

    columns = [pyarrow.ipc.open_stream(index.labels.tobytes()).read_all().column(0) for index in indices]
    return pyarrow.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)
