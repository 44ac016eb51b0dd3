"""Texts of a data set on the Hugging Face hub, or of a folder in its formats: ``data: {hub: NAME}``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_core.data.hub_data import column_of, load_parts
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_glue.data.own_tables import MULTI, Labels, Name, TextColumns, classes_of, problem_of
from kd_glue.data.rows import Cells, Rows
from kd_glue.data.sources import SOURCES, TextSource
from kd_glue.data.tables import as_list, texts_of_rows
from kd_glue.data.targets import Columns, is_missing
from kd_glue.data.tasks import ProblemType
from kd_glue.data.texts import Texts

TEXTS = ("text", "sentence", "content", "review", "question")
LABELS = ("label", "labels", "class", "target", "score")
SEVERAL: ProblemType = "multi_label_classification"
GO_EMOTIONS = "google-research-datasets/go_emotions"


def read_hub(
    *,
    hub: Name,
    subset: Name | None = None,
    revision: Name | None = None,
    text: TextColumns | None = None,
    label: Name | None = None,
    problem: ProblemType | None = None,
    labels: Labels | None = None,
) -> Parts[Texts]:
    """The splits with labels. Columns and classes that are not named are found by their kinds."""
    read = read_parts(hub, subset, revision, text, label, problem, labels)
    labelled = {split: texts for split, (texts, has_labels, _) in read.items() if has_labels}
    if "train" not in labelled:
        raise KDError(f"the training rows of {hub} have no labels", path="label")
    classes = read["train"][2]
    places = {split: f"{hub}, {split}" for split in labelled}
    return Parts(labelled["train"], labelled.get("val"), labelled.get("test"), classes, places)


def unlabelled_hub(
    *,
    hub: Name,
    subset: Name | None = None,
    revision: Name | None = None,
    text: TextColumns | None = None,
    label: Name | None = None,
    problem: ProblemType | None = None,
    labels: Labels | None = None,
) -> dict[str, Texts]:
    """The test rows where they have no labels."""
    read = read_parts(hub, subset, revision, text, label, problem, labels)
    return {split: texts for split, (texts, labelled, _) in read.items() if split == "test" and not labelled}


Read = tuple[Texts, bool, tuple[str, ...] | None]
"""A split's texts, whether they have labels, and the names of the classes."""


def read_parts(
    hub: str,
    subset: str | None,
    revision: str | None,
    text: str | list[str] | None,
    label: str | None,
    problem: ProblemType | None,
    labels: list[str] | None,
) -> dict[str, Read]:
    """Every split of a data set."""
    tables = load_parts(hub, subset, revision, extra="kd-glue")
    train = tables["train"]
    names, features = train.column_names, train.features
    if text is None:
        text = column_of("text", None, names, lambda name: is_text(features[name]), TEXTS)
    for name in as_list(text):
        column_of("text", name, names, lambda name: True, ())
    label = column_of(
        "label", label, names, lambda name: declared(features[name]) is not None or name in LABELS, LABELS
    )
    kind, several = problem_of(label, problem), is_list(features[label])
    if several != (kind == MULTI):
        what = "lists" if several else "single labels"
        hint = f"`problem: {MULTI}`" if several else "leave 'problem' out"
        raise KDError(f"the column {label!r} holds {what}, and the problem is a {kind}", hint=hint, path="problem")
    classes = classes_of(label, labels) or (None if kind == "regression" else declared(features[label]))
    read: dict[str, Read] = {}
    for split, table in tables.items():
        rows = rows_of(table, as_list(text), label, f"{hub}, {split}")
        found = texts_of_rows(rows, Columns(text, label, kind), classes, labelled=split != "test")
        classes = found.classes if split == "train" else classes
        read[split] = (found.texts, found.labelled, classes)
    return read


def declared(feature: Any) -> tuple[str, ...] | None:
    """The classes that a column, or the lists in it, are declared to hold."""
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return None if names is None else tuple(names)


def is_list(feature: Any) -> bool:
    """Whether a column holds lists."""
    return hasattr(feature, "feature") or isinstance(feature, list)


def is_text(feature: Any) -> bool:
    """Whether a column holds texts."""
    return getattr(feature, "dtype", None) in ("string", "large_string") and type(feature).__name__ == "Value"


def rows_of(table: Any, text: list[str], label: str, name: str) -> Rows:
    """The rows of a table, the numbers of declared classes by the classes' names; a label below zero is none."""
    columns: dict[str, Cells] = {}
    for column in (*text, label):
        if column not in table.column_names:
            raise KDError(f"{name} has no column {column!r}")
        columns[column] = list(table.with_format(None)[column])
    classes = declared(table.features[label])
    if classes is not None:
        columns[label] = [named(cell, classes) for cell in columns[label]]
    return Rows(Path(name), columns, range(1, len(table) + 1), "row")


def named(cell: Any, classes: tuple[str, ...]) -> Any:
    """A label, or each of a list, by the name of its class; None for none."""
    if isinstance(cell, list):
        return [named(part, classes) for part in cell]
    return None if is_missing(cell) or cell < 0 else classes[cell]


@dataclass(frozen=True, eq=False)
class HubSource(TextSource):
    """Data of the hub, of which the options say what problem they are."""

    def problem_of(self, options: Mapping[str, Any]) -> ProblemType:
        """The problem, by ``problem``, or the source's own."""
        return options.get("problem") or self.problem

    def classes_of(self, options: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The names of the classes, by ``labels``."""
        return classes_of(None, options.get("labels"))


SOURCES("hub")(
    HubSource(
        "data of the Hugging Face hub by name, or a folder in its formats: hub: NAME",
        read_hub,
        unlabelled=unlabelled_hub,
    )
)


def read_go_emotions(*, revision: Name | None = None) -> Parts[Texts]:
    """GoEmotions (Demszky et al., ACL 2020, arXiv 2005.00547) as it is cut into 43,410, 5,426 and 5,427 comments."""
    return read_hub(
        hub=GO_EMOTIONS, subset="simplified", revision=revision, text="text", label="labels", problem=SEVERAL
    )


SOURCES("go_emotions")(
    TextSource(
        "GoEmotions: 54,263 comments with one or more of 28 emotions; from the hub",
        read_go_emotions,
        splits=("train", "val", "test"),
        problem=SEVERAL,
        unlabelled=None,
    )
)
