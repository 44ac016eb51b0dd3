"""Images with their objects that are read when they are first asked for: scoring needs no training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import FaultyData, error_path
from kd_core.notes import Note
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.sources import Annotated, Boxes, Faults

if TYPE_CHECKING:
    from PIL.Image import Image


class LateBoxes:
    """What ``read`` returns, which is called once, when it is first needed; ``place`` is what it reads.

    The faults are an error then or, to ``skip`` them, a warning among the notes.
    """

    def __init__(self, read: Callable[[], Boxes], categories: Categories, place: str, *, skip: bool) -> None:
        self.read_boxes, self.categories, self.skip = read, categories, skip
        self.faults = Faults(place)

    @cached_property
    def boxes(self) -> Boxes:
        """The images; KDError where they cannot be read, and for all faults at once."""
        with error_path("data"):
            boxes = self.read_boxes()
        if not self.skip and (problem := boxes.faults.problem()) is not None:
            raise FaultyData(problem)
        return boxes

    @property
    def fingerprint(self) -> str:
        """A hash of annotations and images."""
        return self.boxes.fingerprint

    def __len__(self) -> int:
        return len(self.boxes)

    def name(self, row: int) -> str:
        """The name of an image in messages and pictures."""
        return self.boxes.name(row)

    def paths(self, row: int) -> Sequence[Path]:
        """The file that a row is read from."""
        return self.boxes.paths(row)

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of an image."""
        return self.boxes.size(row)

    def annotated(self, row: int) -> Annotated:
        """What is said of an image."""
        return self.boxes.annotated(row)

    def image(self, row: int) -> Image:
        """An image in RGB."""
        return self.boxes.image(row)

    def read(self, row: int) -> tuple[Image, Annotated]:
        """An image and what is said of it."""
        return self.boxes.read(row)

    def objects(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place among ``rows`` of the image of each object there, crowds left out, and its label."""
        return self.boxes.objects(rows)

    def trainable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of some rows, whether the image has anything to train on."""
        return self.boxes.trainable(rows)

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """What was left out of all images, and what a run says of some rows."""
        return [*self.boxes.faults.notes(), *self.boxes.notes(rows)]
