"""Images and masks of a data set on the Hugging Face hub, or of a folder in its formats: ``data: {hub: NAME}``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kd_core.data.file_ranges import stored_files
from kd_core.data.hub_data import ParquetParts, column_of, load_parts, parquet_parts
from kd_core.data.images import bare_image_in, image_in, open_image, read_image
from kd_core.data.parquet_index import features_of, parquet_indices
from kd_core.data.row_groups import RowGroups, Streaming
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_seg.data.folders import ClassNames, ClassValues, Void, White, check_values
from kd_seg.data.image_files import ClassTable, check_same_size, class_values, values_of
from kd_seg.data.sources import SOURCES, MaskSource, PairSubset

Name = Annotated[str, Field(min_length=1)]
IMAGES = ("image", "pixel_values", "img")
MASKS = ("mask", "annotation", "label", "labels", "segmentation_mask")
HASHED = 64
"""Rows whose contents the fingerprint is made of, at equal distances."""


@dataclass(frozen=True)
class HubPairs:
    """Rows of a table with an image and a mask each, whose files are decoded when they are asked for."""

    table: Any
    image: str
    mask: str
    values: ClassTable
    title: str
    white: float | None = None

    def __len__(self) -> int:
        return len(self.table)

    def name(self, row: int) -> str:
        """The number of the row."""
        return f"row {row}"

    def paths(self, row: int) -> Sequence[Path]:
        """None: a row lies in a file of many."""
        return ()

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """Nothing."""
        return []

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the number of rows, of some rows' files, and of what the masks' values mean.

        Of data that are streamed no row is read: their files' footers stand for them.
        """
        if isinstance(self.table, RowGroups):
            return hashlib.sha256(self.values.table.tobytes() + self.table.fingerprint.encode()).hexdigest()[:16]
        state = hashlib.sha256(self.values.table.tobytes() + str(len(self)).encode())
        for row in np.unique(np.linspace(0, len(self) - 1, HASHED).astype(int)).tolist():
            for cell in (self.table[row][self.image], self.table[row][self.mask]):
                state.update((cell["bytes"] or Path(cell["path"]).read_bytes()) if cell else b"")
        return state.hexdigest()[:16]

    def read(self, row: int) -> tuple[Any, NDArray[np.int16]]:
        """An RGB image and its mask; KDError naming the row where one is missing or broken, or their sizes differ."""
        cells, place = self.table[row], Path(f"{self.title}: row {row}")
        photo, mask = cells[self.image], cells[self.mask]
        if photo is None or mask is None:
            raise KDError(f"{place} has no {'image' if photo is None else 'mask'}")
        in_file = photo["bytes"] is None
        image = read_image(Path(photo["path"])) if in_file else image_in(photo["bytes"], str(place), white=self.white)
        drawn = open_image(Path(mask["path"])) if mask["bytes"] is None else bare_image_in(mask["bytes"], str(place))
        classes = self.values.of(values_of(drawn, place), place)
        check_same_size(place, classes, image)
        return image, classes


def read_hub(
    download: bool = True,
    *,
    hub: Name,
    classes: ClassNames,
    subset: Name | None = None,
    revision: Name | None = None,
    image: Name | None = None,
    mask: Name | None = None,
    void: Void = 255,
    values: ClassValues = None,
    white: White = None,
    streaming: bool | Streaming = False,
) -> Parts[PairSubset]:
    """The splits of a data set whose rows have an image and a mask. The columns are found by their kinds."""
    table = class_values(range(len(classes)) if values is None else values, void)
    if streaming:
        how = Streaming() if streaming is True else streaming
        found = parquet_parts(hub, subset, revision, download=download, extra="kd-seg[datasets]")
        rows, image, mask = streamed_rows(found, image, mask, how)
    else:
        rows, image, mask = whole_rows(load_parts(hub, subset, revision, extra="kd-seg[datasets]"), image, mask)
    parts = {
        split: PairSubset(HubPairs(each, image, mask, table, f"{hub}, {split}", white)) for split, each in rows.items()
    }
    places = {split: f"{hub}, {split}" for split in parts}
    return Parts(parts["train"], parts.get("val"), parts.get("test"), tuple(classes), places)


def columns_of(features: Mapping[str, Any], image: str | None, mask: str | None) -> tuple[str, str]:
    """The columns of images and of masks; KDError where they are not known."""
    pictures = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    image = column_of("image", image, list(features), lambda name: name in pictures and name != mask, IMAGES)
    return image, column_of("mask", mask, list(features), lambda name: name in pictures and name != image, MASKS)


def streamed_rows(
    parts: ParquetParts, image: str | None, mask: str | None, streaming: Streaming
) -> tuple[dict[str, Any], str, str]:
    """The rows of each split that has masks, of which only the files' footers are read now, and the two columns."""
    stored = {split: stored_files(paths) for split, paths in parts.files.items()}
    image, mask = columns_of(parts.features or features_of(stored["train"][0]), image, mask)
    rows = {}
    for split, files in stored.items():
        if {image, mask} <= set(features_of(files[0])):
            indices = parquet_indices(files, [image, mask], None)
            rows[split] = RowGroups(files, indices, [image, mask], None, streaming)
    return rows, image, mask


def whole_rows(tables: Mapping[str, Any], image: str | None, mask: str | None) -> tuple[dict[str, Any], str, str]:
    """The rows of each table that has masks, their images not decoded, and the two columns."""
    from datasets import Image

    image, mask = columns_of(tables["train"].features, image, mask)
    parts = {}
    for split, rows in tables.items():
        if not {image, mask} <= set(rows.column_names):
            continue  # a split without masks
        undecoded = rows.select_columns([image, mask])
        for column in (image, mask):
            undecoded = undecoded.cast_column(column, Image(decode=False))
        parts[split] = undecoded
    return parts, image, mask


SOURCES("hub")(
    MaskSource(
        "data of the Hugging Face hub by name, or a folder in its formats: hub: NAME",
        read_hub,
        check=check_values,
    )
)
