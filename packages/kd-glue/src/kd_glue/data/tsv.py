"""Tab-separated files without quoting, and GLUE's original ones.

GLUE's files differ: a header or none, a byte order mark, columns in any order, labels as numbers or words, test files
with an index and without labels. Columns are found by their names. A quotation mark is a letter like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError, did_you_mean, nearest
from kd_glue.data.tasks import GlueTask
from kd_glue.data.texts import Texts, joined, texts_of, unlabelled

BOM = b"\xef\xbb\xbf"
SHOWN = 20
"""Malformed lines that an error names."""
HIGHEST = 5.0
"""The largest score of STS-B, the smallest is 0."""


@dataclass(frozen=True)
class Layout:
    """The columns of a task's files. ``label`` has the class's number where ``numbers``, else its name."""

    texts: tuple[str, ...]
    label: str
    numbers: bool = False
    header: tuple[str, ...] | None = None
    """The columns of files without a header line: all but the test file."""


PAIR = ("sentence1", "sentence2")
LAYOUTS = {
    "cola": Layout(("sentence",), "label", numbers=True, header=("source", "label", "original_label", "sentence")),
    "sst2": Layout(("sentence",), "label", numbers=True),
    "mrpc": Layout(("#1 String", "#2 String"), "Quality", numbers=True),
    "stsb": Layout(PAIR, "score"),
    "qqp": Layout(("question1", "question2"), "is_duplicate", numbers=True),
    "mnli": Layout(PAIR, "gold_label"),
    "qnli": Layout(("question", "sentence"), "label"),
    "rte": Layout(PAIR, "label"),
    "wnli": Layout(PAIR, "label", numbers=True),
    "ax": Layout(PAIR, "label"),
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

    def place(self, row: int) -> str:
        """Where a row stands."""
        return f"{self.path}:{self.first + row}"


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
        broken: dict[int, int] = {}
        first = 1 if header is not None else 2
        for number, line in enumerate(file, first):
            cells = _cells(path, number, line)
            if len(cells) != len(names):
                broken[number] = len(cells)
                continue
            for column, position in zip(columns, positions, strict=True):
                column.append(cells[position])
    if broken:
        raise _broken(path, broken, len(names))
    return Table(path, {names[position]: column for position, column in zip(positions, columns, strict=True)}, first)


def _cells(path: Path, number: int, line: bytes) -> list[str]:
    """The cells of a line."""
    return decoded(path, number, line).removesuffix("\n").removesuffix("\r").split("\t")


def decoded(path: Path, number: int, line: bytes) -> str:
    """A line as text; KDError where it is not UTF-8."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        message = f"byte {line[error.start]:#04x} is not UTF-8"
        hint = "convert the file, as with iconv -t UTF-8"
        raise KDError(f"{path}:{number}: {message}", hint=hint) from None


def columns_of(where: str, names: Sequence[str], required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The columns to read; KDError where one is missing from ``names``, or stands there twice."""
    for name in required:
        if name not in names:
            near = nearest(name, names)
            hint = f"did you mean {near!r}?" if near else f"its columns are {', '.join(map(repr, names[:SHOWN]))}"
            raise KDError(f"{where}: there is no column {name!r}", hint=hint)
    used = list(dict.fromkeys([*required, *(name for name in optional if name in names)]))
    for name in used:
        if names.count(name) > 1:
            raise KDError(f"{where}: there are {names.count(name)} columns {name!r}")
    return used


def _broken(path: Path, broken: dict[int, int], width: int) -> KDError:
    """The error of lines with too many or too few columns: number -> columns."""
    number, cells = next(iter(broken.items()))
    others = len(broken) - 1
    shown = ", ".join(map(str, list(broken)[:SHOWN]))
    rest = f" (and {others} more of its lines {'is' if others == 1 else 'are'} malformed)" if others else ""
    named = f"lines {shown}" if others else "this line"
    named += f" and {len(broken) - SHOWN} more" if len(broken) > SHOWN else ""
    message = f"{cells} column{'' if cells == 1 else 's'}, not {width}"
    return KDError(f"{path}:{number}: {message}{rest}", hint=f"correct or remove {named}")


def read_split(task: GlueTask, path: Path) -> Texts:
    """A labelled file of a task."""
    layout = LAYOUTS[task.name]
    table = read_tsv(path, [*layout.texts, layout.label], header=layout.header)
    cells = table.columns[layout.label]
    target = _scores(table, cells) if task.labels is None else _classes(table, cells, numbers_of(task, layout))
    return texts_of([table.columns[name] for name in layout.texts], target, table.place)


def read_unlabelled(task: GlueTask, path: Path) -> Texts:
    """A test file of a task; labels that it may hold are not read."""
    layout = LAYOUTS[task.name]
    table = read_tsv(path, layout.texts)
    columns = [table.columns[name] for name in layout.texts]
    return texts_of(columns, unlabelled(len(columns[0]), task.labels is None), table.place)


def numbers_of(task: GlueTask, layout: Layout) -> dict[str, int]:
    """The class's number for what stands in the label column."""
    assert task.labels is not None
    return {str(number) if layout.numbers else name: number for number, name in enumerate(task.labels)}


def _classes(table: Table, cells: list[str], numbers: dict[str, int]) -> NDArray[np.generic]:
    """(N,) int64; KDError for a label that is not among ``numbers``."""
    if not set(cells) <= set(numbers):
        row = next(row for row, cell in enumerate(cells) if cell not in numbers)
        hint = did_you_mean(cells[row], list(numbers))
        raise KDError(f"{table.place(row)}: unknown label {cells[row]!r}", hint=hint)
    return np.array([numbers[cell] for cell in cells], np.int64)


def _scores(table: Table, cells: list[str]) -> NDArray[np.generic]:
    """(N, 1) float32 in 0 .. 5; KDError for anything else."""
    scores = np.empty((len(cells), 1), np.float32)
    for row, cell in enumerate(cells):
        try:
            score = float(cell)
        except ValueError:
            score = np.nan
        if not 0 <= score <= HIGHEST:
            raise KDError(f"{table.place(row)}: {cell!r} is not a score from 0 to 5")
        scores[row] = score
    return scores


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
        return parts[0] if len(parts) == 1 else joined(*parts)

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
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    starts = [name for name in names if name.lower().startswith(path.name.lower())]
    near = starts[0] if starts else nearest(path.name, names)
    if root.name == path.name:
        hint = f"data.root: {root.resolve().parent}"
    elif near is not None:
        hint = f"data.folder: {near}"
    else:
        hint = f"it is the folder that holds {path.name}/"
    raise KDError(f"{root} contains no folder {path.name!r}", hint=hint, path="data.root")
