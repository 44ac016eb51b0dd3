"""Text classification from tables of one's own: csv, tsv, jsonl, json and parquet, told apart by their suffix.

csv and tsv have a header line; :mod:`kd_glue.data.delimited` says what is quoted in them. A line of jsonl is an
object; json is a list of objects, or such lines.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from kd_core.errors import KDError
from kd_core.notes import Note
from kd_glue.data.delimited import Quoting, columns_of, lines_of, read_delimited
from kd_glue.data.rows import Cells, Rows, broken_rows
from kd_glue.data.targets import Columns, is_missing, shown, targets_of
from kd_glue.data.texts import Texts, missing_targets, texts_of

Reader = Callable[[Path, Quoting, Sequence[str], Sequence[str]], Rows]


def read_table(path: Path, quoting: Quoting, required: Sequence[str], optional: Sequence[str] = ()) -> Rows:
    """Some columns of a table; KDError where the suffix is none of the five, or the file is missing or broken."""
    if path.suffix.lower() not in READERS:
        hint = f"known suffixes are {', '.join(READERS)}"
        raise KDError(f"{path}: {path.suffix!r} is not a known table format", hint=hint)
    if not path.is_file():
        raise KDError(f"{path}: there is no such file")
    return READERS[path.suffix.lower()](path, quoting, required, optional)


def _delimited(delimiter: str, path: Path, quoting: Quoting, required: Sequence[str], optional: Sequence[str]) -> Rows:
    return read_delimited(path, delimiter, quoting, required, optional)


def _jsonl(path: Path, _: Quoting, required: Sequence[str], optional: Sequence[str]) -> Rows:
    columns: dict[str, Cells] = {name: [] for name in dict.fromkeys([*required, *optional])}
    lines: list[int] = []
    broken: dict[int, str] = {}
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        row = _object(line)
        if isinstance(row, str):
            broken[number] = row
            continue
        if not broken:
            columns_of(f"{path}:{number}", list(row), required, ())
        lines.append(number)
        for name, column in columns.items():
            column.append(row.get(name))
    if broken:
        raise broken_rows(path, broken)
    absent = [name for name in optional if name not in required and all(cell is None for cell in columns[name])]
    return Rows(path, {name: column for name, column in columns.items() if name not in absent}, lines)


def _object(line: str) -> dict[str, Any] | str:
    """A line of jsonl, or why it is none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not valid JSON ({error})"
    return row if isinstance(row, dict) else "is not a JSON object"


def _json(path: Path, quoting: Quoting, required: Sequence[str], optional: Sequence[str]) -> Rows:
    """A list of objects, or lines of jsonl."""
    text = "".join(lines_of(path))
    if not text.lstrip().startswith("["):
        return _jsonl(path, quoting, required, optional)
    try:
        items = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KDError(f"{path}: is not valid JSON ({error})") from None
    numbered = dict(enumerate(items, 1))
    broken = {number: "is not a JSON object" for number, item in numbered.items() if not isinstance(item, dict)}
    if broken:
        raise broken_rows(path, broken, word="row")
    for number, item in numbered.items():
        columns_of(f"{path}: row {number}", list(item), required, ())
    names = [*dict.fromkeys(required), *(name for name in optional if any(name in item for item in items))]
    columns = {name: [item.get(name) for item in items] for name in names}
    return Rows(path, columns, range(1, len(items) + 1), "row")


def _parquet(path: Path, _: Quoting, required: Sequence[str], optional: Sequence[str]) -> Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        selected = columns_of(str(path), names, required, optional)
        table = parquet.read_table(path, columns=selected)
    except (pa.ArrowException, OSError) as error:
        raise KDError(f"{path}: is not a readable parquet file ({error})") from None
    columns = {name: table.column(name).to_pylist() for name in selected}
    return Rows(path, columns, range(1, table.num_rows + 1), "row")


READERS: dict[str, Reader] = {
    ".csv": partial(_delimited, ","),
    ".tsv": partial(_delimited, "\t"),
    ".jsonl": _jsonl,
    ".json": _json,
    ".parquet": _parquet,
}


# -- from rows to texts


@dataclass(frozen=True)
class TableTexts:
    """A table's texts. ``classes`` are the names of the classes, None for a regression and where nothing has labels."""

    texts: Texts
    labelled: bool
    classes: tuple[str, ...] | None
    notes: tuple[Note, ...] = ()


def read_texts(
    path: Path,
    columns: Columns,
    classes: tuple[str, ...] | None,
    *,
    labelled: bool = True,
    quoting: Quoting = "auto",
) -> TableTexts:
    """All rows of a table. Without ``classes`` they are those found in it.

    Where not ``labelled``, the columns of labels may be missing or empty: then no text has one.
    """
    names = as_list(columns.label)
    rows = read_table(path, quoting, as_list(columns.text) + (names if labelled else []), names)
    return texts_of_rows(rows, columns, classes, labelled=labelled)


def texts_of_rows(
    rows: Rows, columns: Columns, classes: tuple[str, ...] | None, *, labelled: bool = True
) -> TableTexts:
    """The texts and targets of rows that were read, see :func:`read_texts`."""
    names, texts = as_list(columns.label), _texts(rows, columns)
    rows = replace(rows, notes=(*rows.notes, *_empty(rows, columns, texts)))
    cells = [rows.columns[name] for name in names if name in rows.columns]
    if not labelled and (len(cells) < len(names) or all(is_missing(cell) for column in cells for cell in column)):
        names = []
    if not names:
        target = missing_targets(len(rows), columns.kind == "regression")
        return TableTexts(texts_of(texts, target, rows.location), False, classes, rows.notes)
    targets = targets_of(rows, columns, cells, classes)
    read = texts_of(texts, targets.array, rows.location)
    return TableTexts(read, True, targets.classes, (*rows.notes, *targets.notes))


def rows_of_texts(path: Path, columns: Columns, quoting: Quoting) -> None:
    """KDError where the rows of a table cannot be read, or have no texts; nothing is said of labels."""
    _texts(read_table(path, quoting, as_list(columns.text)), columns)


def as_list(names: str | list[str] | None) -> list[str]:
    """Names of columns."""
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _texts(rows: Rows, columns: Columns) -> list[Cells]:
    """The columns of texts; KDError, naming all rows, where cells are no strings."""
    names = as_list(columns.text)
    texts = [rows.columns[name] for name in names]
    wrong = {
        row: f"{name!r} is {shown(cell)}, not a string"
        for name, column in zip(names, texts, strict=True)
        for row, cell in enumerate(column)
        if not isinstance(cell, str)
    }
    if wrong:
        raise rows.broken(dict(sorted(wrong.items())))
    return texts


def _empty(rows: Rows, columns: Columns, texts: list[Cells]) -> list[Note]:
    """What to say of texts without a letter."""
    notes = []
    for name, column in zip(as_list(columns.text), texts, strict=True):
        empty = [row for row, cell in enumerate(column) if not cell.strip()]
        if empty:
            verb = "is" if len(empty) == 1 else "are"
            share = f"{len(empty):,} of {len(rows):,} texts in column {name!r} {verb} empty"
            notes.append(Note.warning(f"{rows.path}: {share} ({rows.numbered(empty)})"))
    return notes
