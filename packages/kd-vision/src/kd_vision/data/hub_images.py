"""Images of a data set on the Hugging Face hub, or of a folder in its formats: ``data: {hub: uoft-cs/cifar100}``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import Dataset

from kd_core.data.file_ranges import stored_files
from kd_core.data.hub_data import ParquetParts, column_of, load_parts, parquet_parts
from kd_core.data.images import image_in, read_image
from kd_core.data.parquet_index import features_of, labels_of, parquet_indices
from kd_core.data.row_groups import RowGroups, Streaming
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_vision.data.folders import White, class_order
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset
from kd_vision.data.sample_contents import SampleContents
from kd_vision.data.sources import SOURCES, ImageSource

Name = Annotated[str, Field(min_length=1)]
IMAGES = ("image", "img")
LABELS = ("label", "labels", "fine_label", "class", "target")
"""Usual names of the columns; of CIFAR-100 the hundred classes are meant."""


class HubImages(Dataset[tuple[Any, int]]):
    """Rows of a table with an image in each; one is decoded, upright and in RGB, when it is asked for."""

    def __init__(self, table: Any, column: str, targets: Tensor, name: str, white: float | None) -> None:
        self.table, self.column, self.targets, self.title, self.white = table, column, targets, name, white

    def __len__(self) -> int:
        return len(self.targets)

    def encoded(self, row: int) -> bytes | None:
        """The bytes of an image's file; None where they are not in the table."""
        cell = self.table[row][self.column]
        return None if cell is None else cell["bytes"]

    def __getitem__(self, row: int) -> tuple[Any, int]:
        cell, name = self.table[row][self.column], f"{self.title}: row {row}"
        if cell is None:
            raise KDError(f"{name} has no image")
        if cell["bytes"] is None:
            return read_image(Path(cell["path"]), white=self.white), int(self.targets[row])
        return image_in(cell["bytes"], name, white=self.white), int(self.targets[row])


class StreamedImages(Dataset[tuple[Any, int]]):
    """The same of Parquet files, whose row groups are fetched when one of their rows is asked for."""

    def __init__(self, rows: RowGroups, targets: Tensor, white: float | None) -> None:
        self.rows, self.targets, self.white = rows, targets, white

    def __len__(self) -> int:
        return len(self.targets)

    def arranged(self, rows: Tensor) -> Tensor:
        """The places of ``rows`` (N,) in the order in which they are read: see :meth:`RowGroups.arranged`."""
        return torch.from_numpy(self.rows.arranged(rows.numpy()))

    def encoded(self, row: int) -> bytes | None:
        """The bytes of an image's file; None where they are not in the table."""
        [cell] = self.rows[row].values()
        return None if cell is None else cell["bytes"]

    def __getitem__(self, row: int) -> tuple[Any, int]:
        content = self.encoded(row)
        if content is None:
            raise KDError(f"{self.rows.name(row)} has no image")
        try:
            return image_in(content, "", white=self.white), int(self.targets[row])
        except KDError as error:
            problem = error.problems[0]
            raise KDError(f"{self.rows.name(row)}{problem.message}", hint=problem.hint) from error


def read_hub(
    download: bool = True,
    *,
    hub: Name,
    subset: Name | None = None,
    revision: Name | None = None,
    image: Name | None = None,
    label: Name | None = None,
    white: White = None,
    streaming: bool | Streaming = False,
) -> Parts[LabelledSubset]:
    """The splits of a data set whose rows have an image and a label. The columns are found by their kinds."""
    if streaming:
        how = Streaming() if streaming is True else streaming
        parts = parquet_parts(hub, subset, revision, download=download, extra="kd-vision[datasets]")
        return read_streamed(parts, hub, image, label, white, how)
    tables = load_parts(hub, subset, revision, extra="kd-vision[datasets]")
    train = tables["train"]
    image = column_of("image", image, train.column_names, lambda name: is_image(train.features[name]), IMAGES)
    label = column_of("label", label, train.column_names, lambda name: is_label(train.features[name], name), LABELS)
    classes = classes_of(train, label)
    subsets = {
        split: subset_of(table, image, label, classes, f"{hub}, {split}", white) for split, table in tables.items()
    }
    places = {split: f"{hub}, {table.split or split}" for split, table in tables.items()}
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes, places)


def read_streamed(
    parts: ParquetParts, hub: str, image: str | None, label: str | None, white: float | None, streaming: Streaming
) -> Parts[LabelledSubset]:
    """The splits of a data set in Parquet files, of which only the footers and the labels are read now."""
    stored = {split: stored_files(paths) for split, paths in parts.files.items()}
    features = parts.features or features_of(stored["train"][0])
    image = column_of("image", image, list(features), lambda name: is_image(features[name]), IMAGES)
    label = column_of("label", label, list(features), lambda name: is_label(features[name], name), LABELS)
    indices = {split: parquet_indices(files, [image], label) for split, files in stored.items()}
    labels = {split: labels_of(each) for split, each in indices.items()}
    names = getattr(features[label], "names", None)
    classes = tuple(names) if names is not None else classes_among(labels["train"].unique().to_pylist())
    subsets, places = {}, {}
    for split, files in stored.items():
        places[split] = f"{hub}, {parts.splits[split]}"
        target = targets_of(labels[split].to_pylist(), classes, names is not None, places[split])
        rows = RowGroups(files, indices[split], [image], label, streaming)
        subsets[split] = streamed_subset(StreamedImages(rows, target, white))
    notes = tuple(subsets["train"].images.rows.sorted_note(subsets["train"].target.numpy()))
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes, places, notes=notes)


def streamed_subset(images: StreamedImages) -> LabelledSubset:
    """All rows of some files, told apart by these and the labels: no image is read for that."""
    state = hashlib.sha256(images.rows.fingerprint.encode() + images.targets.numpy().tobytes())
    return LabelledSubset(images, images.targets, torch.arange(len(images)), state.hexdigest())


def is_image(feature: Any) -> bool:
    """Whether a column holds images."""
    return type(feature).__name__ == "Image"


def is_label(feature: Any, name: str) -> bool:
    """Whether a column holds classes: it is declared so, or is a usual name of numbers or texts."""
    plain = type(feature).__name__ == "Value" and name in LABELS
    return type(feature).__name__ == "ClassLabel" or plain


def classes_of(table: Any, label: str) -> tuple[str, ...]:
    """The names of the classes: those that are declared, else the values in the training rows."""
    names = getattr(table.features[label], "names", None)
    return tuple(names) if names is not None else classes_among(table.unique(label))


def classes_among(labels: Iterable[Any]) -> tuple[str, ...]:
    """The names of the classes that labels are of, missing ones left out; KDError for fewer than two."""
    values = {str(value) for value in labels if value is not None}
    if len(values) < 2:
        raise KDError(f"has fewer than two classes: {', '.join(values) or 'none'}", path="label")
    return class_order(sorted(values))


def subset_of(
    table: Any, image: str, label: str, classes: Sequence[str], name: str, white: float | None
) -> LabelledSubset:
    """All rows of a table; KDError where a label is not a class."""
    from datasets import Image

    for column in (image, label):
        if column not in table.column_names:
            raise KDError(f"{name} has no column {column!r}")
    declared = getattr(table.features[label], "names", None) is not None
    values = table.with_format("arrow")[label]
    cells = values.to_pylist() if hasattr(values, "to_pylist") else [cell.as_py() for cell in values]
    target = targets_of(cells, classes, declared, name)
    table = table.select_columns([image]).cast_column(image, Image(decode=False))
    images = HubImages(table, image, target, name, white)
    state = hashlib.sha256(f"{name} {len(target)}".encode())
    state.update(target.numpy().tobytes())
    return LabelledSubset(images, target, torch.arange(len(target)), SampleContents(images, state.hexdigest()))


def targets_of(cells: Sequence[Any], classes: Sequence[str], declared: bool, name: str) -> Tensor:
    """(N,) the class of each label, -100 where there is none; KDError where one is not a class.

    Labels are numbers where the classes are ``declared``, else the classes' names.
    """
    numbers = {value: number for number, value in enumerate(range(len(classes)) if declared else classes)}
    labels = [value if declared else str(value) for value in cells]
    wrong = next(
        (row for row, (value, cell) in enumerate(zip(labels, cells, strict=True)) if is_wrong(value, cell, numbers)),
        None,
    )
    if wrong is not None:
        raise KDError(f"{name}: the label {cells[wrong]!r} of row {wrong} is not a class", path="label")
    return torch.tensor([numbers.get(value, UNLABELLED) for value in labels], dtype=torch.int64)


def is_wrong(value: Any, cell: Any, numbers: dict[Any, int]) -> bool:
    """Whether a label is neither a class nor missing: null, or a negative number."""
    missing = cell is None or (isinstance(cell, int) and cell < 0)
    return not missing and value not in numbers


SOURCES("hub")(
    ImageSource("data of the Hugging Face hub by name, or a folder in its formats: hub: NAME", read_hub, channels=3)
)
