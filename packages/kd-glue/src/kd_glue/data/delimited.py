"""csv and tsv files: what a quotation mark means in them, and every broken row at once.

Two dialects are known. In ``none``, that of GLUE's own files, a quotation mark is a letter and every line is a row. In
``minimal``, that of pandas, R and spreadsheets, a field that begins with a quotation mark ends with the next single
one: two of them stand for one, and delimiters and ends of lines between them belong to the text.
"""

from __future__ import annotations

import csv
import mmap
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kd_core.errors import KDError, nearest
from kd_core.notes import Note
from kd_glue.data.rows import SHOWN, Cells, Rows, broken_rows

BOM = b"\xef\xbb\xbf"
Quoting = Literal["auto", "minimal", "none"]
MARK = '"'
UNCLOSED = "a quotation mark is never closed"
OTHER_DELIMITERS = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a bar"}
HINTS = {
    "minimal": "`quoting: none` reads a quotation mark as a letter",
    "none": "`quoting: minimal` reads fields in quotation marks, as pandas writes them",
}
Record = tuple[int, list[str] | str]
"""The line in which a row begins, and its cells, or why it has none."""


@dataclass(frozen=True)
class Parsed:
    """A file in one dialect: the header's names, the rows with as many cells, and why others (by line) are broken."""

    names: list[str]
    lines: list[int]
    cells: list[list[str]]
    broken: dict[int, str]


def read_delimited(
    path: Path, delimiter: str, quoting: Quoting, required: Sequence[str], optional: Sequence[str] = ()
) -> Rows:
    """Some columns of a file in UTF-8 whose first line names all of them.

    ``auto``: a csv file is ``minimal``; a tsv file is, where it can be read so as a whole and :func:`is_quoted`.
    KDError, naming all broken lines, where one has more or fewer cells than the header, where a quotation mark is not
    closed or closes before the end of a field, and where bytes are not UTF-8.
    """
    notes: tuple[Note, ...] = ()
    if quoting == "auto" and delimiter == "\t":
        parsed, quoting = _decided(path, delimiter)
        notes = (Note(f"{path}: read with `quoting: {quoting}`"),) if _has_marks(path, delimiter) else ()
    else:
        quoting = "minimal" if quoting == "auto" else quoting
        parsed = _parsed(path, delimiter, quoting)
    selected = columns_of(f"{path}:1", parsed.names, required, optional)
    if parsed.broken:
        raise broken_rows(path, parsed.broken, HINTS[quoting] if _has_marks(path, delimiter) else None)
    positions = [parsed.names.index(name) for name in selected]
    columns: dict[str, Cells] = {
        name: [cells[position] for cells in parsed.cells] for name, position in zip(selected, positions, strict=True)
    }
    return Rows(path, columns, parsed.lines, notes=notes)


def _decided(path: Path, delimiter: str) -> tuple[Parsed, Quoting]:
    """A file read in the dialect that it is in, and which that is: where it is broken, that with fewer broken rows."""
    plain = _parsed(path, delimiter, "none")
    if _has_marks(path, delimiter) and is_quoted(plain):
        quoted = _parsed(path, delimiter, "minimal")
        fewer = len(quoted.broken) < len(plain.broken) and UNCLOSED not in quoted.broken.values()
        if fewer or not quoted.broken or any(map(is_wrapped, plain.names)):
            return quoted, "minimal"
    return plain, "none"


def is_quoted(plain: Parsed) -> bool:
    """Whether a file, here read as ``none``, shows that its fields are quoted.

    It shows that by lines that are no rows, by a name of a column in quotation marks, by a field in them with doubled
    ones in it, or by a column that is in quotation marks in every row.
    """
    if plain.broken or any(map(is_wrapped, plain.names)):
        return True
    wrapped = [0] * len(plain.names)
    for cells in plain.cells:
        for column, cell in enumerate(cells):
            if is_wrapped(cell):
                wrapped[column] += 1
                if MARK * 2 in cell[1:-1]:
                    return True
    return len(plain.cells) > 0 and len(plain.cells) in wrapped


def is_wrapped(cell: str) -> bool:
    """Whether a cell stands in quotation marks."""
    return len(cell) > 1 and cell[0] == MARK == cell[-1]


def _parsed(path: Path, delimiter: str, quoting: Quoting) -> Parsed:
    records = _unquoted(path, delimiter) if quoting == "none" else _quoted(path, delimiter)
    _, names = next(records, (1, []))
    parsed = Parsed(names if isinstance(names, list) else [], [], [], {})
    if isinstance(names, str):
        raise KDError(f"{path}:1: {names}", hint=HINTS[quoting])
    for line, cells in records:
        if isinstance(cells, str):
            parsed.broken[line] = cells
        elif cells == [""] and len(names) > 1:
            continue  # an empty line is no row
        elif len(cells) != len(names):
            parsed.broken[line] = count_reason(len(cells), len(names))
        else:
            parsed.lines.append(line)
            parsed.cells.append(cells)
    return parsed


def count_reason(cells: int, columns: int) -> str:
    """What is wrong with a row of ``cells`` columns."""
    return f"{cells} column{'' if cells == 1 else 's'}, not {columns}"


def _unquoted(path: Path, delimiter: str) -> Iterator[Record]:
    for number, line in enumerate(lines_of(path), 1):
        yield number, line.removesuffix("\n").removesuffix("\r").split(delimiter)


def _quoted(path: Path, delimiter: str) -> Iterator[Record]:
    """Rows as the csv module reads them; an empty line is none."""
    reader = csv.reader(lines_of(path), delimiter=delimiter, strict=True)
    with _long_fields():
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield start, _reason(str(error), delimiter)
                continue
            if cells:
                yield start, cells


def _reason(error: str, delimiter: str) -> str:
    """What the csv module says of a row, in words that say what to look for."""
    if "unexpected end of data" in error:
        return UNCLOSED
    if "expected after" in error:
        return f"a quotation mark closes before {OTHER_DELIMITERS.get(delimiter, 'the delimiter')}"
    if "new-line character" in error:
        return "a carriage return stands outside quotation marks"
    return f"is not valid CSV ({error})"


@contextmanager
def _long_fields() -> Iterator[None]:
    """With fields of any length: the csv module's own limit is 128 KiB."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _has_marks(path: Path, delimiter: str) -> bool:
    """Whether any field begins with a quotation mark."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return re.search(b'(?:\\A(?:%s)?|[%s\n])"' % (BOM, re.escape(delimiter.encode())), content) is not None


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file in UTF-8, with their ends; KDError naming all that are not. Only LF ends a line."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise KDError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        for number, line in enumerate(file, 1):
            yield decoded(path, number, line.removeprefix(BOM) if number == 1 else line)


def decoded(path: Path, number: int, line: bytes) -> str:
    """A line as text; KDError, naming all others, where it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        with path.open("rb") as file:
            reasons = {at: reason for at, text in enumerate(file, 1) if (reason := _undecodable(text))}
        reasons = reasons or {number: f"byte {line[error.start]:#04x} is not UTF-8"}
        raise broken_rows(path, reasons, "or convert the file, as with iconv -t UTF-8") from None


def _undecodable(line: bytes) -> str | None:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return f"byte {line[error.start]:#04x} is not UTF-8"
    return None


def columns_of(where: str, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The columns to read; KDError where one is missing from ``names``, or stands there twice."""
    for name in required:
        if name not in names:
            raise KDError(f"{where}: there is no column {name!r}", hint=_column_hint(name, names))
    selected = list(dict.fromkeys([*required, *(name for name in optional if name in names)]))
    for name in selected:
        if names.count(name) > 1:
            raise KDError(f"{where}: there are {names.count(name)} columns {name!r}")
    return selected


def _column_hint(name: str, names: Sequence[str]) -> str:
    """What may be meant by a column that is not there."""
    if not any(names):
        return "its first line, which names the columns, is empty"
    if len(names) == 1:
        for delimiter, word in OTHER_DELIMITERS.items():
            if name in (cell.strip(' "') for cell in names[0].split(delimiter)):
                return f"its columns are divided by {word}: csv files have commas, tsv files tabs"
    near = nearest(name, names)
    return f"did you mean {near!r}?" if near else f"its columns are {', '.join(map(repr, names[:SHOWN]))}"
