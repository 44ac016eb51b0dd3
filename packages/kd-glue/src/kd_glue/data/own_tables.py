"""Tables of one's own as a data set: which files, and what is said of their columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from kd_core.config.schema import StrictModel
from kd_core.data.sources import Parts
from kd_core.errors import ConfigError, KDError
from kd_core.files import user_path
from kd_core.notes import Note
from kd_glue.data.delimited import Quoting
from kd_glue.data.sources import SOURCES, TextSource
from kd_glue.data.tables import TableTexts, read_texts, rows_of_texts
from kd_glue.data.targets import Columns
from kd_glue.data.tasks import ProblemType
from kd_glue.data.texts import Texts

MULTI = "multi_label_classification"
Name = Annotated[str, Field(min_length=1)]


def distinct(names: str | list[str] | None) -> str | list[str] | None:
    """The names; ValueError where one is listed twice."""
    if isinstance(names, list) and len(set(names)) < len(names):
        raise ValueError("a name is listed twice")
    return names


TextColumns = Annotated[Name | Annotated[list[Name], Field(min_length=1, max_length=2)], AfterValidator(distinct)]
LabelColumns = Annotated[Name | Annotated[list[Name], Field(min_length=1)], AfterValidator(distinct)]
Labels = Annotated[list[Name], Field(min_length=1), AfterValidator(distinct)]


class TableFiles(StrictModel):
    """A table for each split: csv, tsv, jsonl, json or parquet."""

    train: Name | None = None
    val: Name | None = None
    test: Name | None = None


def read_tables(
    root: Path | None,
    *,
    files: TableFiles,
    text: TextColumns,
    label: LabelColumns | None = None,
    problem: ProblemType | None = None,
    labels: Labels | None = None,
    normalize_labels: bool = False,
    quoting: Quoting = "auto",
) -> Parts[Texts]:
    """The splits with labels. Classes that ``labels`` does not name are those of the training rows.

    ``normalize_labels``: labels that differ by blanks or case alone are one. ``quoting`` says what a quotation mark
    means in csv and tsv files: see :mod:`kd_glue.data.delimited`.
    """
    columns = Columns(text, label, problem_of(label, problem), normalize_labels)
    paths = {split: path_of(root, name) for split, name in files if name is not None}
    try:
        return _read(paths, columns, classes_of(label, labels), quoting)
    except KDError as error:
        raise with_other_faults(error, paths, columns, quoting) from None


def with_other_faults(error: KDError, paths: Mapping[str, Path], columns: Columns, quoting: Quoting) -> KDError:
    """An error of one of several tables together with what is wrong with the rows of the others."""
    problems = {problem.message: problem for problem in error.problems}
    for path in paths.values():
        try:
            rows_of_texts(path, columns, quoting)
        except KDError as other:
            problems = {**{problem.message: problem for problem in other.problems}, **problems}
    return error if len(problems) == len(error.problems) else ConfigError(problems.values())


def _read(
    paths: Mapping[str, Path], columns: Columns, classes: tuple[str, ...] | None, quoting: Quoting
) -> Parts[Texts]:
    """The splits with labels: see :func:`read_tables`."""
    read = partial(read_texts, columns=columns, quoting=quoting)
    notes: list[Note] = []
    train, val = None, None
    if "train" in paths:
        table = read(paths["train"], classes=classes)
        train, classes = table.texts, table.classes
        notes += table.notes
    if columns.kind != "regression":
        if classes is None:
            raise KDError("without training rows the names of the classes must be given", path="labels")
        if len(classes) < (1 if columns.kind == MULTI else 2):
            found_classes = ", ".join(classes) or "none"
            raise KDError(f"the training rows have fewer than two classes: {found_classes}", path="label")
    if "val" in paths:
        table = read(paths["val"], classes=classes)
        val = table.texts
        notes += table.notes
    test = read_test(paths, columns, classes, quoting)
    labelled = test.texts if test is not None and test.labelled else None
    if train is val is labelled is None:
        raise KDError("no split has labels", path="files")
    notes += () if test is None else test.notes
    places = {split: str(path) for split, path in paths.items()}
    return Parts(train, val, labelled, classes, places, notes=tuple(dict.fromkeys(notes)))


def unlabelled_tables(
    root: Path | None,
    *,
    files: TableFiles,
    text: TextColumns,
    label: LabelColumns | None = None,
    problem: ProblemType | None = None,
    labels: Labels | None = None,
    normalize_labels: bool = False,
    quoting: Quoting = "auto",
) -> dict[str, Texts]:
    """The test rows where they have no labels."""
    paths = {split: path_of(root, name) for split, name in files if name is not None}
    columns = Columns(text, label, problem_of(label, problem), normalize_labels)
    test = read_test(paths, columns, classes_of(label, labels), quoting)
    return {} if test is None or test.labelled else {"test": test.texts}


def read_test(
    paths: Mapping[str, Path], columns: Columns, classes: tuple[str, ...] | None, quoting: Quoting
) -> TableTexts | None:
    """The test rows, with labels or without."""
    return read_texts(paths["test"], columns, classes, labelled=False, quoting=quoting) if "test" in paths else None


def path_of(root: Path | None, name: str) -> Path:
    """A file, below ``root`` where there is one and the name is not absolute."""
    path = user_path(name)
    return path if root is None else root / path


def problem_of(label: str | list[str] | None, problem: ProblemType | None) -> ProblemType:
    """The problem, in the words of transformers' ``config.problem_type``."""
    return MULTI if isinstance(label, list) else problem or "single_label_classification"  # type: ignore[return-value]


def classes_of(label: str | list[str] | None, labels: list[str] | None) -> tuple[str, ...] | None:
    """The names of the classes, in the order of the targets, as far as the config tells."""
    names = label if isinstance(label, list) else labels
    return None if names is None else tuple(names)


def check_tables(
    *,
    files: TableFiles,
    text: str | list[str],
    label: str | list[str] | None,
    problem: ProblemType | None,
    labels: list[str] | None,
    normalize_labels: bool,
    quoting: Quoting,
) -> None:
    """KDError where options do not agree."""
    if not files.model_fields_set:
        raise KDError("'files' names no table: give 'train', 'val' or 'test'")
    if label is None and (files.train or files.val):
        raise KDError("'label' is missing: the column of the labels")
    if isinstance(label, list):
        if problem not in (None, MULTI):
            raise KDError("several 'label' columns are a multi_label_classification: leave 'problem' out")
        if labels is not None:
            raise KDError("several 'label' columns are the classes: leave 'labels' out")
    kind = problem_of(label, problem)
    if normalize_labels and (isinstance(label, list) or kind == "regression"):
        raise KDError("'normalize_labels' is about the names of classes: leave it out")
    if quoting != "auto" and not any(name and Path(name).suffix.lower() in (".csv", ".tsv") for _, name in files):
        raise KDError("'quoting' is about csv and tsv files: leave it out")
    if labels is not None and kind == "regression":
        raise KDError("a regression has no classes: leave 'labels' out")
    if labels is not None and kind == "single_label_classification" and len(labels) < 2:
        raise KDError("'labels' of a classification are two or more")


@dataclass(frozen=True, eq=False)
class TableSource(TextSource):
    """Tables, of which the options say what problem they are."""

    def problem_of(self, options: Mapping[str, Any]) -> ProblemType:
        """The problem, by ``label`` and ``problem``."""
        return problem_of(options["label"], options["problem"])

    def classes_of(self, options: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The names of the classes, by ``label`` and ``labels``."""
        return classes_of(options["label"], options["labels"])


SOURCES("files")(
    TableSource(
        "tables of your own, by split: {train: a.csv, val: b.csv}; csv, tsv, jsonl, json or parquet",
        read_tables,
        check=check_tables,
        unlabelled=unlabelled_tables,
    )
)
