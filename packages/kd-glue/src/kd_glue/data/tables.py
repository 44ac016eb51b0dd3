"""Text classification from tables of one's own: csv, tsv, jsonl and parquet, told apart by their suffix.

csv and tsv have a header line. csv is quoted as in RFC 4180; in tsv nothing is quoted, as in GLUE's files. A line of
jsonl is an object. Labels of a classification are names or whole numbers, those of a regression are numbers. Several
labels of one text stand in a column of 0 and 1 each, or in one: as a list (jsonl, parquet) or separated by ``;``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError, did_you_mean
from kd_glue.data.tasks import ProblemType
from kd_glue.data.texts import Texts, texts_of, unlabelled
from kd_glue.data.tsv import BOM, columns_of, decoded, read_tsv

SEPARATOR = ";"
"""Between the labels of one text, where they stand in one string."""
Cells = list[Any]


@dataclass(frozen=True)
class Rows:
    """Columns of a table by name. ``lines`` is where each row stands."""

    path: Path
    columns: dict[str, Cells]
    lines: Sequence[int]
    word: str = ":"

    def place(self, row: int) -> str:
        """Where a row stands."""
        return f"{self.path}{self.word}{self.lines[row]}"

    def __len__(self) -> int:
        return len(self.lines)


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = ()) -> Rows:
    """Some columns of a table; KDError where the suffix is none of the four, or the file is missing or broken."""
    if path.suffix.lower() not in READERS:
        hint = f"known suffixes are {', '.join(READERS)}"
        raise KDError(f"{path}: {path.suffix!r} is not a known table format", hint=hint)
    if not path.is_file():
        raise KDError(f"{path}: there is no such file")
    return READERS[path.suffix.lower()](path, required, optional)


def _tsv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Rows:
    table = read_tsv(path, required, optional=optional)
    count = len(next(iter(table.columns.values())))
    return Rows(path, dict(table.columns), range(table.first, table.first + count))


def _csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Rows:
    reader = csv.reader(_lines(path), strict=True)
    lines: list[int] = []
    try:
        names = next(reader, [])
        used = columns_of(f"{path}:1", names, required, optional)
        columns: dict[str, Cells] = {name: [] for name in used}
        places = [names.index(name) for name in used]
        start = reader.line_num + 1
        for cells in reader:
            if cells:  # an empty line is no row
                if len(cells) != len(names):
                    raise KDError(f"{path}:{start}: {len(cells)} column(s), not {len(names)}")
                lines.append(start)
                for column, position in zip(columns.values(), places, strict=True):
                    column.append(cells[position])
            start = reader.line_num + 1
    except csv.Error as error:
        raise KDError(f"{path}:{reader.line_num}: is not valid CSV ({error})") from None
    return Rows(path, columns, lines)


def _jsonl(path: Path, required: Sequence[str], optional: Sequence[str]) -> Rows:
    columns: dict[str, Cells] = {name: [] for name in dict.fromkeys([*required, *optional])}
    lines: list[int] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise KDError(f"{path}:{number}: is not valid JSON ({error})") from None
        if not isinstance(row, dict):
            raise KDError(f"{path}:{number}: is not a JSON object")
        columns_of(f"{path}:{number}", list(row), required, ())
        lines.append(number)
        for name, column in columns.items():
            column.append(row.get(name))
    absent = [name for name in optional if name not in required and all(cell is None for cell in columns[name])]
    return Rows(path, {name: column for name, column in columns.items() if name not in absent}, lines)


def _parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        used = columns_of(str(path), names, required, optional)
        table = parquet.read_table(path, columns=used)
    except (pa.ArrowException, OSError) as error:
        raise KDError(f"{path}: is not a readable parquet file ({error})") from None
    columns = {name: table.column(name).to_pylist() for name in used}
    return Rows(path, columns, range(1, table.num_rows + 1), ": row ")


READERS: dict[str, Callable[[Path, Sequence[str], Sequence[str]], Rows]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file in UTF-8, with their ends; KDError naming one that is not."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield decoded(path, number, line.removeprefix(BOM) if number == 1 else line)


# -- from rows to texts


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the text (or two of a pair) and the label (or several of 0 and 1)."""

    text: str | list[str]
    label: str | list[str] | None
    kind: ProblemType


@dataclass(frozen=True)
class Read:
    """A table's texts. ``classes`` are the names of the classes, None for a regression and where nothing has labels."""

    texts: Texts
    labelled: bool
    classes: tuple[str, ...] | None


def read_texts(path: Path, columns: Columns, classes: tuple[str, ...] | None, *, labelled: bool = True) -> Read:
    """All rows of a table. Without ``classes`` they are those found in it.

    Where not ``labelled``, the columns of labels may be missing: then no text has one.
    """
    names = as_list(columns.label)
    rows = read_table(path, as_list(columns.text) + (names if labelled else []), names)
    texts = _texts(rows, columns)
    if not names or not set(names) <= set(rows.columns):
        target = unlabelled(len(rows), columns.kind == "regression")
        return Read(texts_of(texts, target, rows.place), False, classes)
    target, classes = _targets(rows, columns, [rows.columns[name] for name in names], classes)
    return Read(texts_of(texts, target, rows.place), True, classes)


def as_list(names: str | list[str] | None) -> list[str]:
    """Names of columns."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _texts(rows: Rows, columns: Columns) -> list[Cells]:
    """The columns of texts; KDError where a cell is none."""
    names = as_list(columns.text)
    text_columns = [rows.columns[name] for name in names]
    for name, column in zip(names, text_columns, strict=True):
        for row, cell in enumerate(column):
            if not isinstance(cell, str):
                raise KDError(f"{rows.place(row)}: {name!r} is {shown(cell)}, not a string")
    return text_columns


def _targets(
    rows: Rows, columns: Columns, cells: list[Cells], classes: tuple[str, ...] | None
) -> tuple[NDArray[np.generic], tuple[str, ...] | None]:
    if columns.kind == "regression":
        return _numbers(rows, cells[0]), None
    if columns.kind == "single_label_classification":
        return _single(rows, cells[0], classes)
    if isinstance(columns.label, list):
        return _marked(rows, cells, columns.label), tuple(columns.label)
    return _several(rows, cells[0], classes)


def _numbers(rows: Rows, cells: Cells) -> NDArray[np.generic]:
    """(N, 1) float32."""
    numbers = np.empty((len(cells), 1), np.float32)
    for row, cell in enumerate(cells):
        try:
            number = math.nan if isinstance(cell, bool) else float(cell)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise KDError(f"{rows.place(row)}: the label is {shown(cell)}, not a number")
        numbers[row] = number
    return numbers


def _single(rows: Rows, cells: Cells, classes: tuple[str, ...] | None) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(N,) int64 and the names of the classes."""
    words = [_word(rows, row, cell) for row, cell in enumerate(cells)]
    classes = classes or in_order(set(words))
    numbers = numbers_of(classes)
    return np.array([_known(rows, row, word, numbers) for row, word in enumerate(words)], np.int64), classes


def _several(rows: Rows, cells: Cells, classes: tuple[str, ...] | None) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(N, C) float32 of 0 and 1, and the names of the classes."""
    words: list[list[str]] = []
    for row, cell in enumerate(cells):
        parts = [part.strip() for part in cell.split(SEPARATOR)] if isinstance(cell, str) else cell
        if not isinstance(parts, list):
            raise KDError(f"{rows.place(row)}: the label is {shown(cell)}, not a list of names")
        words.append([_word(rows, row, part) for part in parts if part != ""])
    classes = classes or in_order({word for labels in words for word in labels})
    numbers = numbers_of(classes)
    targets = np.zeros((len(words), len(classes)), np.float32)
    for row, labels in enumerate(words):
        targets[row, [_known(rows, row, word, numbers) for word in labels]] = 1
    return targets, classes


def _marked(rows: Rows, cells: list[Cells], names: list[str]) -> NDArray[np.generic]:
    """(N, C) float32 from C columns of 0 and 1."""
    targets = np.zeros((len(rows), len(cells)), np.float32)
    for number, column in enumerate(cells):
        for row, cell in enumerate(column):
            if cell not in ("0", "1", 0, 1):
                raise KDError(f"{rows.place(row)}: {names[number]!r} is {shown(cell)}, neither 0 nor 1")
            targets[row, number] = int(cell)
    return targets


def _word(rows: Rows, row: int, cell: Any) -> str:
    """A label as a name; KDError for what can be none."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if not isinstance(cell, (str, int)) or cell == "":
        raise KDError(f"{rows.place(row)}: the label is {shown(cell)}, not a name")
    return str(cell)


def numbers_of(classes: Sequence[str]) -> dict[str, int]:
    """What a label may be: a class's name, or its number where no name is a number."""
    numbers = (
        {} if any(name.isdecimal() for name in classes) else {str(number): number for number in range(len(classes))}
    )
    return numbers | {name: number for number, name in enumerate(classes)}


def _known(rows: Rows, row: int, word: str, numbers: dict[str, int]) -> int:
    if word not in numbers:
        names = [name for name in numbers if not name.isdecimal()] or list(numbers)
        raise KDError(f"{rows.place(row)}: unknown label {word!r}", hint=did_you_mean(word, names))
    return numbers[word]


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names found in a table: whole numbers by their value, else by the alphabet."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def shown(cell: Any) -> str:
    """A cell in an error."""
    return "missing" if cell is None else repr(cell)
