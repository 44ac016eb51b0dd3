"""Images whose files and classes stand in a table: ``data: {files: {train: train.csv}, image: path, label: class}``."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from kd_core.config.schema import StrictModel
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_vision.data.folders import White, class_order, files_subset
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset
from kd_vision.data.sources import SOURCES, ImageSource

Name = Annotated[str, Field(min_length=1)]
DELIMITERS = {".csv": ",", ".tsv": "\t"}


class TableFiles(StrictModel):
    """A table for each split: csv or tsv with a header line."""

    train: Name
    val: Name | None = None
    test: Name | None = None


def read_tables(
    root: Path,
    *,
    files: TableFiles,
    image: Name = "image",
    label: Name = "label",
    weight: Name | None = None,
    white: White = None,
) -> Parts[LabelledSubset]:
    """The splits that ``files`` names. A row has the path of an image, below the folder of its table, and a class.

    A row without a label trains without one. ``weight`` is a column of the training table, for the sampler
    ``weighted``. KDError for columns, files or classes that are not there, and for weights that are no numbers.
    """
    named = {split: user_path(name) for split, name in files if name is not None}
    paths = {split: root / path if (root / path).is_file() else path for split, path in named.items()}
    tables = {split: table_of(path) for split, path in paths.items()}
    rows = {split: rows_of(paths[split], table, image, label) for split, table in tables.items()}
    classes = class_order(sorted({name for _, name in rows["train"] if name}))
    if len(classes) < 2:
        raise KDError(f"{paths['train']}: has fewer than two classes in the column {label!r}", path="label")
    numbers = {"": UNLABELLED, **{name: number for number, name in enumerate(classes)}}
    subsets = {}
    for split, cells in rows.items():
        if unknown := next((name for _, name in cells if name not in numbers), None):
            raise KDError(f"{paths[split]}: {unknown!r} is not a class of the training images")
        images = [paths[split].parent / file for file, _ in cells]
        if missing := next((file for file in images if not file.is_file()), None):
            raise KDError(f"{paths[split]}: there is no file {missing}")
        subsets[split] = files_subset(paths[split].parent, images, [numbers[name] for _, name in cells], white)
    if weight is not None:
        subsets["train"] = replace(subsets["train"], weights=weights_of(paths["train"], tables["train"], weight))
    places = {split: str(path) for split, path in paths.items()}
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes, places)


Table = list[dict[str, str]]
"""The rows of a table by the names of its columns."""


def table_of(path: Path) -> Table:
    """The rows of a table; KDError where it is missing, broken or empty."""
    if path.suffix.lower() not in DELIMITERS:
        raise KDError(f"{path}: {path.suffix!r} is not a known table format", hint="known suffixes are .csv, .tsv")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=DELIMITERS[path.suffix.lower()], strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise KDError(f"{path}: is not a readable table ({getattr(error, 'strerror', None) or error})") from error
    if not rows:
        raise KDError(f"{path}: holds no row")
    return rows


def rows_of(path: Path, table: Table, image: str, label: str) -> list[tuple[str, str]]:
    """(file, class) of each row of a table; KDError where it has not these columns."""
    check_column(path, table, "image", image)
    check_column(path, table, "label", label)
    short = next((number for number, row in enumerate(table, 2) if not row[image] or row[label] is None), None)
    if short is not None:
        raise KDError(f"{path}: row {short} has no image or no label cell")
    return [(row[image], row[label].strip()) for row in table]


def weights_of(path: Path, table: Table, column: str) -> Tensor:
    """(N,) float64: the weight of each row; KDError where a cell is not a number from 0 on."""
    check_column(path, table, "weight", column)
    weights = []
    for number, row in enumerate(table, 2):
        try:
            weights.append(float(row[column] or "nan"))
        except ValueError:
            weights.append(math.nan)
        if not 0 <= weights[-1] < math.inf:
            raise KDError(f"{path}: row {number}: {row[column] or ''!r} is not a number from 0 on", path="weight")
    return torch.tensor(weights, dtype=torch.float64)


def check_column(path: Path, table: Table, key: str, column: str) -> None:
    """KDError, at the key ``key``, where a table has no such column."""
    if column not in table[0]:
        hint = f"`{key}: COLUMN`, one of {', '.join(map(str, table[0]))}"
        raise KDError(f"{path}: there is no column {column!r}", hint=hint, path=key)


SOURCES("files")(
    ImageSource(
        "images whose files and classes stand in tables: {train: a.csv, val: b.csv}",
        read_tables,
        size=224,
        channels=3,
        augment="resized_crop_flip",
    )
)
