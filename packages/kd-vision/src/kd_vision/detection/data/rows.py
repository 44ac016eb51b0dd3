"""Images with objects that are read one by one, from a file for each image."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd_core.data.packed import Packed
from kd_core.data.shapes import Shape
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.sources import Faults
from kd_vision.detection.data.table import Box, FileBoxes, ImageFolder, Objects, box_fault, starts_of


@dataclass(frozen=True)
class ImageObject:
    """An object of an image, which messages call ``number``. ``label`` is 0 for the class ``name``, which there is not.

    ``area`` is by default that of the box. A ``crowd`` is not scored, and what is not ``trained`` does not train.
    """

    number: int
    name: str
    label: int
    box: Box
    area: float | None = None
    crowd: bool = False
    trained: bool = True
    shape: Shape | None = None


@dataclass
class ImageRows:
    """Images below ``folder`` with their objects, and in words what is wrong with those that cannot be kept.

    ``state`` is part of the fingerprint: the annotations and what they are read as.
    """

    folder: Path
    categories: Categories
    noun: str
    state: str
    files: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    objects: list[ImageObject] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, file: str, size: tuple[int, int], annotations: Path, objects: Sequence[ImageObject]) -> None:
        """An image of ``size`` (height, width) with its objects, which the file ``annotations`` has."""
        row = len(self.files)
        self.files.append(file)
        self.sizes.append(size)
        for item in objects:
            unknown = None if item.label else f"is of the class {item.name!r}, which there is not"
            if fault := unknown or box_fault(item.box, size):
                self.faults.append(f"{annotations}: {self.noun} {item.number} {fault}")
                continue
            self.rows.append(row)
            self.objects.append(item)

    def update(self, content: bytes) -> None:
        """Make the content of a file of annotations a part of the fingerprint."""
        self.state = hashlib.sha256(self.state.encode() + content).hexdigest()

    def boxes(self, place: str, *, masks: bool = False, short: bool = False) -> FileBoxes:
        """All of them; with ``masks`` objects have shapes. ``short`` as of :class:`ImageFolder`."""
        shapes = Packed([item.shape or [] for item in self.objects]) if masks else None
        areas = [area_of(item.box) if item.area is None else item.area for item in self.objects]
        objects = Objects(
            starts_of(np.array(self.rows, np.int64), len(self.files)),
            np.array([item.box for item in self.objects], np.float64).reshape(-1, 4),
            np.array([item.label for item in self.objects], np.int64),
            np.array(areas, np.float64),
            np.array([item.crowd for item in self.objects], bool),
            np.array([item.trained for item in self.objects], bool),
            np.array([item.number for item in self.objects], np.int64),
            np.array([item.trained for item in self.objects], bool),
            shapes,
        )
        sizes = np.array(self.sizes, np.int64).reshape(-1, 2)
        images = ImageFolder(self.folder, Packed(self.files), sizes, np.arange(len(self.files)), short=short)
        faults = Faults(place, self.faults)
        digest = f"{self.state} {self.categories} {masks}"
        return FileBoxes(images, objects, self.categories, faults, digest=digest, noun=self.noun)


def area_of(box: Box) -> float:
    """The area of a box x1 y1 x2 y2."""
    left, top, right, bottom = box
    return (right - left) * (bottom - top)
