"""Images and masks of a data set on the Hugging Face hub, or of a folder in its formats: ``data: {hub: NAME}``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kd_core.data.hub_data import column_of, load_parts
from kd_core.data.images import bare_image_in, image_in, open_image, read_image
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
        """A hash of the number of rows, of some rows' files, and of what the masks' values mean."""
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
) -> Parts[PairSubset]:
    """The splits of a data set whose rows have an image and a mask. The columns are found by their kinds."""
    from datasets import Image

    tables = load_parts(hub, subset, revision, extra="kd-seg[datasets]")
    train = tables["train"]
    pictures = [name for name in train.column_names if type(train.features[name]).__name__ == "Image"]
    image = column_of("image", image, train.column_names, lambda name: name in pictures and name != mask, IMAGES)
    mask = column_of("mask", mask, train.column_names, lambda name: name in pictures and name != image, MASKS)
    table = class_values(range(len(classes)) if values is None else values, void)
    parts = {}
    for split, rows in tables.items():
        if not {image, mask} <= set(rows.column_names):
            continue  # a split without masks
        undecoded = rows.select_columns([image, mask])
        for column in (image, mask):
            undecoded = undecoded.cast_column(column, Image(decode=False))
        parts[split] = PairSubset(HubPairs(undecoded, image, mask, table, f"{hub}, {split}", white))
    places = {split: f"{hub}, {split}" for split in parts}
    return Parts(parts["train"], parts.get("val"), parts.get("test"), tuple(classes), places)


SOURCES("hub")(
    MaskSource(
        "data of the Hugging Face hub by name, or a folder in its formats: hub: NAME",
        read_hub,
        check=check_values,
    )
)
