"""Tab-separated files without quoting, and GLUE's original ones.

GLUE's files differ: a header or none, a byte order mark, columns in any order, labels as numbers or words, test files
with an index and without labels. Columns are found by their names. A quotation mark is a letter like any other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError, did_you_mean, nearest
from kd_glue.data.delimited import BOM, columns_of, count_reason, decoded
from kd_glue.data.rows import broken_rows
from kd_glue.data.tasks import HIGHEST, GlueTask
from kd_glue.data.texts import Texts, concatenated, missing_targets, texts_of


@dataclass(frozen=True)
class TsvLayout:
    """The columns of a task's files. ``label`` has the class's number where ``numbers``, else its name."""

    texts: tuple[str, ...]
    label: str
    numbers: bool = False
    header: tuple[str, ...] | None = None
    """The columns of files without a header line: all but the test file."""


PAIR = ("sentence1", "sentence2")
LAYOUTS = {
    "cola": TsvLayout(("sentence",), "label", numbers=True, header=("source", "label", "original_label", "sentence")),
    "sst2": TsvLayout(("sentence",), "label", numbers=True),
    "mrpc": TsvLayout(("#1 String", "#2 String"), "Quality", numbers=True),
    "stsb": TsvLayout(PAIR, "score"),
    "qqp": TsvLayout(("question1", "question2"), "is_duplicate", numbers=True),
    "mnli": TsvLayout(PAIR, "gold_label"),
    "qnli": TsvLayout(("question", "sentence"), "label"),
    "rte": TsvLayout(PAIR, "label"),
    "wnli": TsvLayout(PAIR, "label", numbers=True),
    "ax": TsvLayout(PAIR, "label"),
}
DEV: dict[str, tuple[str, ...]] = {"mnli": ("dev_matched.tsv", "dev_mismatched.tsv"), "ax": ()}
"""The files of the dev set, where that is not ``dev.tsv``."""
TEST = {
    "mnli": {"test_matched": "test_matched.tsv", "test_mismatched": "test_mismatched.tsv"},
    "ax": {"ax": "diagnostic.tsv"},
}
"""The files without labels by the name of the split, where that is not ``test.tsv``."""


@dataclass(frozen=True)
class Table:
    """Columns of a file, by name, as text. Row 0 stands in line ``first``."""

    path: Path
    columns: dict[str, list[str]]
    first: int

    def location(self, row: int) -> str:
        """The file and line of a row."""
        return f"{self.path}:{self.first + row}"

    def broken(self, reasons: Mapping[int, str], hint: str | None = None) -> KDError:
        """The error of some rows, by their positions."""
        return broken_rows(self.path, {self.first + row: reason for row, reason in reasons.items()}, hint)


def read_tsv(
    path: Path, required: Sequence[str], *, optional: Sequence[str] = (), header: Sequence[str] | None = None
) -> Table:
    """Some columns of a file in UTF-8 whose first line, unless ``header`` is given, names all of them.

    KDError, naming file and line, where a ``required`` column is missing, where a line has more or fewer columns
    than the header, and where bytes are no UTF-8. ``optional`` columns may be missing. Lines end with LF or CR LF.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise KDError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        mark = file.read(len(BOM))
        file.seek(len(BOM) if mark == BOM else 0)
        names = _cells(path, 1, file.readline()) if header is None else list(header)
        positions = [names.index(name) for name in columns_of(f"{path}:1", names, required, optional)]
        columns: list[list[str]] = [[] for _ in positions]
        broken: dict[int, str] = {}
        first = 1 if header is not None else 2
        for number, line in enumerate(file, first):
            cells = _cells(path, number, line)
            if len(cells) != len(names):
                broken[number] = count_reason(len(cells), len(names))
                continue
            for column, position in zip(columns, positions, strict=True):
                column.append(cells[position])
    if broken:
        raise broken_rows(path, broken)
    return Table(path, {names[position]: column for position, column in zip(positions, columns, strict=True)}, first)


def _cells(path: Path, number: int, line: bytes) -> list[str]:
    """The cells of a line."""
    return decoded(path, number, line).removesuffix("\n").removesuffix("\r").split("\t")


def read_split(task: GlueTask, path: Path) -> Texts:
    """A labelled file of a task."""
    layout = LAYOUTS[task.name]
    table = read_tsv(path, [*layout.texts, layout.label], header=layout.header)
    cells = table.columns[layout.label]
    target = _scores(table, cells) if task.labels is None else _classes(table, cells, numbers_of(task, layout))
    return texts_of([table.columns[name] for name in layout.texts], target, table.location)


def read_unlabelled(task: GlueTask, path: Path) -> Texts:
    """A test file of a task; labels that it may hold are not read."""
    layout = LAYOUTS[task.name]
    table = read_tsv(path, layout.texts)
    columns = [table.columns[name] for name in layout.texts]
    return texts_of(columns, missing_targets(len(columns[0]), task.labels is None), table.location)


def numbers_of(task: GlueTask, layout: TsvLayout) -> dict[str, int]:
    """The class's number for what stands in the label column."""
    assert task.labels is not None
    return {str(number) if layout.numbers else name: number for number, name in enumerate(task.labels)}


def _classes(table: Table, cells: list[str], numbers: dict[str, int]) -> NDArray[np.generic]:
    """(N,) int64; KDError, naming all rows, for labels that are not among ``numbers``."""
    if not set(cells) <= set(numbers):
        wrong = {row: f"unknown label {cell!r}" for row, cell in enumerate(cells) if cell not in numbers}
        raise table.broken(wrong, did_you_mean(cells[next(iter(wrong))], list(numbers)))
    return np.array([numbers[cell] for cell in cells], np.int64)


def _scores(table: Table, cells: list[str]) -> NDArray[np.generic]:
    """(N, 1) float32 in 0 .. 5; KDError, naming all rows, for anything else."""
    scores = np.array([_score(cell) for cell in cells], np.float32)
    wrong = {int(row): f"{cells[row]!r} is not a score from 0 to 5" for row in np.flatnonzero(np.isnan(scores))}
    if wrong:
        raise table.broken(wrong)
    return scores[:, None]


def _score(cell: str) -> float:
    """A score, NaN for anything else."""
    try:
        score = float(cell)
    except ValueError:
        return math.nan
    return score if 0 <= score <= HIGHEST else math.nan


@dataclass(frozen=True)
class GlueFolder:
    """The folder of a task's original files."""

    task: GlueTask
    path: Path

    def train(self) -> Texts | None:
        """``train.tsv``, None where there is no such file."""
        path = self.path / "train.tsv"
        return read_split(self.task, path) if path.is_file() else None

    def val(self) -> Texts | None:
        """The dev set, None where there is none; MNLI's two as one, and one of them alone is an error."""
        paths = [self.path / name for name in DEV.get(self.task.name, ("dev.tsv",))]
        there = [path for path in paths if path.is_file()]
        if not there:
            return None
        if len(there) < len(paths):
            missing = next(path for path in paths if path not in there)
            raise KDError(f"{missing}: is missing, and {there[0].name} is there")
        parts = [read_split(self.task, path) for path in paths]
        return parts[0] if len(parts) == 1 else concatenated(*parts)

    def unlabelled(self) -> dict[str, Texts]:
        """The test sets that are there, by name."""
        files = TEST.get(self.task.name, {"test": "test.tsv"})
        paths = {name: self.path / file for name, file in files.items()}
        return {name: read_unlabelled(self.task, path) for name, path in paths.items() if path.is_file()}


def glue_folder(task: GlueTask, root: Path, folder: str | None) -> GlueFolder:
    """The folder of a task below ``root``; KDError, saying what was meant, where it is not there."""
    path = root / (folder or task.folder)
    if path.is_dir():
        return GlueFolder(task, path)
    if not root.is_dir():
        raise KDError(f"there is no folder {root}", path="data.root")
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    starts = [name for name in names if name.lower().startswith(path.name.lower())]
    near = starts[0] if starts else nearest(path.name, names)
    if root.name == path.name:
        hint = f"data.root: {root.resolve().parent}"
    elif near is not None:
        hint = f"data.folder: {near}"
    else:
        hint = f"it is the folder that holds {path.name}/"
    raise KDError(f"{root} contains no folder {path.name!r}", hint=hint, path="data.root")
