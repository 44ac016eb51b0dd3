"""Labels of a table's rows as targets, and the names of its classes. What is doubtful is refused, with all its rows.

A label is a name or a whole number; ``1.0`` is 1, as pandas writes whole numbers beside missing ones. Labels of a
regression are numbers. Several labels of one text stand in a column of 0 and 1 each, or in one: as a list (jsonl,
parquet) or separated by ``;``.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError, did_you_mean
from kd_core.notes import Note
from kd_glue.data.rows import Cells, Rows
from kd_glue.data.tasks import ProblemType

SEPARATOR = ";"
"""Between the labels of one text, where they stand in one string."""
REGRESSION_HINT = "numbers are learned with `problem: regression`; to have a class for each, name them all in `labels`"
SPELLING_HINT = "`normalize_labels: true` reads labels that differ by blanks or case alone as one"
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NOT_A_NAME = ("nan", "NaN", "<NA>")
"""What tools write for a missing value: names of classes only where ``labels`` says so."""
WHOLE = re.compile(r"(-?\d+)(\.0*)?")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold the text (or two of a pair) and the label (or several of 0 and 1).

    ``normalize``: labels that differ by blanks or case alone are one.
    """

    text: str | list[str]
    label: str | list[str] | None
    kind: ProblemType
    normalize: bool = False


@dataclass(frozen=True)
class Targets:
    """The target of each row, the names of the classes, None for a regression, and what is to say of them."""

    array: NDArray[np.generic]
    classes: tuple[str, ...] | None
    notes: tuple[Note, ...] = ()


def targets_of(rows: Rows, columns: Columns, cells: list[Cells], classes: tuple[str, ...] | None) -> Targets:
    """The targets of all rows: without ``classes``, these are those of the labels. KDError for what is no label."""
    if columns.kind == "regression":
        return Targets(_numbers(rows, cells[0]), None)
    if isinstance(columns.label, list):
        return Targets(_marked(rows, cells, columns.label), tuple(columns.label))
    if columns.kind == "single_label_classification":
        return _single(rows, cells[0], classes, normalize=columns.normalize)
    return _several(rows, cells[0], classes, normalize=columns.normalize)


def is_missing(cell: Any) -> bool:
    """Whether a row has no label: an empty cell, null, or NaN."""
    return (
        cell is None or (isinstance(cell, str) and not cell.strip()) or (isinstance(cell, float) and math.isnan(cell))
    )


def _numbers(rows: Rows, cells: Cells) -> NDArray[np.generic]:
    """(N, 1) float32."""
    numbers = np.array([_number(cell) for cell in cells], np.float64).reshape(len(cells), 1)
    wrong = np.flatnonzero(~np.isfinite(numbers)).tolist()
    if wrong:
        raise rows.broken({row: f"the label is {shown(cells[row])}, not a number" for row in wrong})
    return numbers.astype(np.float32)


def _number(cell: Any) -> float:
    """A label as a number, NaN for anything else."""
    try:
        return math.nan if isinstance(cell, bool) else float(cell)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _single(rows: Rows, cells: Cells, classes: tuple[str, ...] | None, *, normalize: bool) -> Targets:
    """(N,) int64 and the names of the classes."""
    words = _words(rows, dict(enumerate(cells)), classes)
    read = _Reading.of(rows, words.values(), classes, normalize=normalize)
    read.check(rows, words)
    return Targets(np.array([read.numbers[word] for word in words.values()], np.int64), read.classes, read.notes)


def _several(rows: Rows, cells: Cells, classes: tuple[str, ...] | None, *, normalize: bool) -> Targets:
    """(N, C) float32 of 0 and 1, and the names of the classes."""
    parts = [[part.strip() for part in cell.split(SEPARATOR)] if isinstance(cell, str) else cell for cell in cells]
    wrong = {row: part for row, part in enumerate(parts) if not isinstance(part, list)}
    if wrong:
        raise rows.broken({row: f"the label is {shown(part)}, not a list of names" for row, part in wrong.items()})
    flat = [(row, part) for row, labels in enumerate(parts) for part in labels if part != ""]
    single = Rows(rows.path, {}, [rows.lines[row] for row, _ in flat], rows.word)
    words = _words(single, {at: part for at, (_, part) in enumerate(flat)}, classes)
    read = _Reading.of(single, words.values(), classes, normalize=normalize)
    read.check(single, words)
    targets = np.zeros((len(parts), len(read.classes)), np.float32)
    for at, (row, _) in enumerate(flat):
        targets[row, read.numbers[words[at]]] = 1
    return Targets(targets, read.classes, read.notes)


def _marked(rows: Rows, cells: list[Cells], names: list[str]) -> NDArray[np.generic]:
    """(N, C) float32 from C columns of 0 and 1."""
    values = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    wrong = {
        row: f"{name!r} is {shown(cell)}, neither 0 nor 1"
        for name, column in zip(names, cells, strict=True)
        for row, cell in enumerate(column)
        if str(cell) not in values and cell not in (0, 1)
    }
    if wrong:
        raise rows.broken(dict(sorted(wrong.items())))
    columns = [[values[str(int(cell)) if isinstance(cell, bool) else str(cell)] for cell in column] for column in cells]
    return np.array(columns, np.float32).T.reshape(len(rows), len(cells))


def _words(rows: Rows, cells: Mapping[int, Any], classes: tuple[str, ...] | None) -> dict[int, str]:
    """The labels as names; KDError for what can be none, and for labels of several types."""
    named = set(classes or ())
    wrong = {
        row: f"the label is {shown(cell)}, not a name"
        for row, cell in cells.items()
        if not _is_name(cell) or (cell in NOT_A_NAME and cell not in named)
    }
    if wrong:
        raise rows.broken(wrong)
    types: dict[str, int] = {}
    for row, cell in cells.items():
        types.setdefault(_type(cell), row)
    if len(types) > 1:
        (first, row), (other, at) = list(types.items())[:2]
        reason = f"the label is {shown(cells[at])}, {other}, and that of {rows.numbered([row])} is {first}"
        raise KDError(f"{rows.location(at)}: {reason}", hint="write all labels of a file alike")
    words = {row: str(cell).lower() if isinstance(cell, bool) else str(cell) for row, cell in cells.items()}
    broken = [row for row, word in words.items() if word not in named and _is_fraction(word)]
    if broken:
        raise KDError(f"{rows.location(broken[0])}: the label {words[broken[0]]} is not a class", hint=REGRESSION_HINT)
    commas = [row for row, word in words.items() if word not in named and DECIMAL_COMMA.fullmatch(word.strip())]
    if commas:
        hint = f"write decimals with a point, as {words[commas[0]].strip().replace(',', '.')}"
        raise KDError(f"{rows.location(commas[0])}: the label {words[commas[0]]} is not a class", hint=hint)
    return {row: word if word in named else _whole(word) for row, word in words.items()}


def _is_name(cell: Any) -> bool:
    return isinstance(cell, (str, int, float)) and not is_missing(cell)


def _type(cell: Any) -> str:
    """What a label is, in words."""
    return "a string" if isinstance(cell, str) else "true or false" if isinstance(cell, bool) else "a number"


def _is_fraction(word: str) -> bool:
    """Whether a label is a number that is not whole."""
    return NUMBER.fullmatch(word.strip()) is not None and not float(word).is_integer()


def _whole(word: str) -> str:
    """``1`` for ``1.0``; any other label as it is."""
    match = WHOLE.fullmatch(word)
    return match[1] if match is not None and match[2] else word


@dataclass(frozen=True)
class _Reading:
    """How words become classes: the number of each, the classes' names, and what is to say of it."""

    numbers: dict[str, int]
    classes: tuple[str, ...]
    notes: tuple[Note, ...]

    @classmethod
    def of(cls, rows: Rows, words: Iterable[str], classes: tuple[str, ...] | None, *, normalize: bool) -> _Reading:
        """How these words are read; KDError where they differ by blanks or case alone and this is not allowed."""
        counts = Counter(words)
        notes: list[Note] = []
        if classes is None:
            spellings = _spellings(counts)
            alike = [names for names in spellings.values() if len(names) > 1]
            if alike and not normalize:
                listed = "; ".join(", ".join(f"{name!r} ({counts[name]:,})" for name in names) for names in alike)
                raise KDError(f"{rows.path}: the labels {listed} differ by blanks or case alone", hint=SPELLING_HINT)
            classes = in_order({names[0].strip() if normalize else names[0] for names in spellings.values()})
            padded = [repr(name) for name in classes if name != name.strip()]
            if len(classes) > 10 and 2 * len(classes) > counts.total():
                text = f"{rows.path}: {len(classes):,} classes for {counts.total():,} labels"
                notes.append(Note.warning(text))
            if padded:
                text = f"{rows.path}: labels begin or end with blanks: {', '.join(padded)}"
                notes.append(Note.warning(text))
        numbers = numbers_of(classes)
        if normalize:
            keys = {_key(name): number for name, number in numbers.items()}
            if len(keys) < len(numbers):
                raise KDError("classes differ by blanks or case alone: leave out normalize_labels", path="labels")
            same = {word: keys[_key(word)] for word in counts if word not in numbers and _key(word) in keys}
            if same:
                read = ", ".join(f"{word!r} as {classes[number]!r} ({counts[word]:,})" for word, number in same.items())
                notes.append(Note(f"{rows.path}: labels are read {read}"))
            numbers = numbers | same
        return cls(numbers, classes, (*notes, *_by_number(rows, counts, classes)))

    def check(self, rows: Rows, words: Mapping[int, str]) -> None:
        """KDError, naming all rows, where words are no classes."""
        wrong = {row: f"unknown label {word!r}" for row, word in words.items() if word not in self.numbers}
        if not wrong:
            return
        names = [name for name in self.numbers if not name.isdecimal()] or list(self.numbers)
        word = words[next(iter(wrong))]
        hint = SPELLING_HINT if _key(word) in map(_key, names) else did_you_mean(word, names)
        raise rows.broken(wrong, hint)


def _by_number(rows: Rows, counts: Mapping[str, int], classes: tuple[str, ...]) -> list[Note]:
    """What to say of labels that are numbers of classes; KDError where others in the file are names."""
    if any(name.isdecimal() for name in classes):
        return []
    numbers = [word for word in counts if word.isdecimal() and int(word) < len(classes)]
    names = [word for word in counts if not word.isdecimal()]
    if numbers and names:
        raise KDError(
            f"{rows.path}: the labels {', '.join(map(repr, numbers))} are numbers, and {names[0]!r} is a name",
            hint="write all labels of a file alike",
        )
    read = ", ".join(f"{number} is {name!r}" for number, name in enumerate(classes))
    text = f"{rows.path}: labels are numbers of classes, in the order of `labels`: {read}"
    return [Note(text)] if numbers else []


def _spellings(counts: Mapping[str, int]) -> dict[str, list[str]]:
    """The spellings of each label, the most frequent first."""
    spellings: dict[str, list[str]] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name != name.strip(), name)):
        spellings.setdefault(_key(name), []).append(name)
    return spellings


def _key(name: str) -> str:
    """A name without what blanks, case and Unicode's forms of a letter make of it."""
    visible = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    return " ".join(visible.split()).casefold()


def numbers_of(classes: Sequence[str]) -> dict[str, int]:
    """Map every valid label to its class: the class's name, or its number where no name is a number."""
    numbers = (
        {} if any(name.isdecimal() for name in classes) else {str(number): number for number in range(len(classes))}
    )
    return numbers | {name: number for number, name in enumerate(classes)}


def in_order(names: set[str]) -> tuple[str, ...]:
    """Names found in a table: whole numbers by their value, else by the alphabet."""
    if all(WHOLE.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def shown(cell: Any) -> str:
    """A cell in an error."""
    return "missing" if cell is None else repr(cell)
