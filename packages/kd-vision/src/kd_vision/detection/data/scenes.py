"""Generated scenes with exact boxes and masks: see :mod:`kd_core.data.scenes`.

A shape's box and mask are those of what is seen of it. Shapes of which fewer than :data:`SEEN` pixels are seen, because
others cover them or the image ends, are no objects.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.data.scenes import CLASSES, TRAIN, VAL, VERSION, Scene, SceneRows, scene
from kd_core.data.shapes import runs_from
from kd_core.data.sources import Parts
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.sources import SOURCES, Annotated, BoxSource, BoxSubset, Faults

if TYPE_CHECKING:
    from PIL.Image import Image

SEEN = 36
"""Pixels of a shape that are seen at least, of some hundred that it has."""
SHAPES = Categories.listed(CLASSES[1:])
"""What is in a scene: label k is the k-th of the generator's classes."""


class SceneBoxes(SceneRows):
    """Scenes with their boxes, made when they are read; with their shapes where ``masks``."""

    categories = SHAPES
    faults = Faults("scenes")

    def __init__(self, first: int, count: int, *, masks: bool = False) -> None:
        super().__init__(first, count)
        self.masks = masks
        self.fingerprint = hashlib.sha256(f"scenes {VERSION} {SEEN} {first} {count} {masks}".encode()).hexdigest()

    def size(self, row: int) -> tuple[int, int]:
        """(height, width)."""
        height, width = drawn(self.first + row).mask.shape
        return height, width

    def annotated(self, row: int) -> Annotated:
        """What is seen of the shapes."""
        number = self.first + row
        return self._annotated(number, drawn(number))

    def _annotated(self, number: int, content: Scene) -> Annotated:
        boxes, labels, areas, shapes = [], [], [], []
        for position, kind in enumerate(content.kinds, 1):
            mask = content.owners == position
            if (area := int(mask.sum())) < SEEN:
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            labels.append(kind)
            areas.append(area)
            shapes.append(runs_from(mask) if self.masks else {})
        height, width = content.mask.shape
        return Annotated(
            f"scene_{number:04}",
            np.array(boxes, np.float32).reshape(-1, 4),
            np.array(labels, np.int64),
            np.array(areas, np.float32),
            np.zeros(len(boxes), bool),
            tuple(shapes) if self.masks else None,
            None,
            number,
            (height, width),
        )

    def image(self, row: int) -> Image:
        """An image in RGB."""
        from PIL import Image

        return Image.fromarray(drawn(self.first + row).image)

    def read(self, row: int) -> tuple[Image, Annotated]:
        """An image and what is seen in it."""
        return self.image(row), self.annotated(row)

    def objects(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place among ``rows`` of the scene of each shape, and its label."""
        labels = [self.annotated(row).labels for row in rows.tolist()]
        places = np.repeat(np.arange(len(rows)), [len(each) for each in labels])
        return places, np.concatenate([np.zeros(0, np.int64), *labels])

    def trainable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether any shape is seen."""
        places, _ = self.objects(rows)
        return np.bincount(places, minlength=len(rows)) > 0


@lru_cache(maxsize=TRAIN + VAL)
def drawn(number: int) -> Scene:
    """A scene, kept: its size and its shapes are asked for before its pixels (all of them are 20 MB)."""
    return scene(number)


def read_scenes(masks: bool) -> Parts[BoxSubset]:
    """400 scenes to train on and 100 to validate; nothing is read."""
    train, val = (SceneBoxes(first, count, masks=masks) for first, count in ((0, TRAIN), (TRAIN, VAL)))
    return Parts(BoxSubset(train), BoxSubset(val), None, SHAPES.names)


SOURCES("scenes")(
    BoxSource(
        f"{TRAIN} + {VAL} generated images of about 80x80 pixels, shapes of 5 classes with masks; no download",
        read_scenes,
        splits=("train", "val"),
        categories=SHAPES,
    )
)
