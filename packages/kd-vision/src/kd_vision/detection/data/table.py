"""The objects of many images in arrays, which worker processes share, and the image files that they are in."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.data.fingerprint import FileContents
from kd_core.data.images import read_image
from kd_core.data.shapes import Shape
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.sources import Annotated, Faults

if TYPE_CHECKING:
    from PIL.Image import Image

Box = tuple[float, float, float, float]
"""x1 y1 x2 y2."""
NOISE = 1e-3
"""Pixels by which a box leaves its image that are no more than rounding of the numbers."""
STRAY = 1.0
"""Pixels by which it may leave it; what is more is a fault."""
LEAST = 1.0
"""Pixels that a box is wider and higher than, in an image that trains (torchvision's reference)."""
SEEN_KEYPOINTS = 10
"""An image trains keypoints where it has so many (torchvision's reference), or as many as an object may have."""
LEAVE = "leave their images, and train as far as they are inside"
SHOWN = 3
"""Annotations that a note names."""


@dataclass(frozen=True)
class Objects:
    """The M objects of N images, sorted by image: those of image k are rows ``starts[k]`` to ``starts[k + 1]``.

    ``boxes`` (M, 4) float64 x1 y1 x2 y2, ``labels`` (M,) int64, ``areas`` (M,) float64, ``crowds`` and ``trained`` (M,)
    bool: what is not scored, and what trains. ``numbers`` (M,) int64 is what messages call an object by. ``shapes`` has
    M items and ``keypoints`` is (M, K, 3) float32, where they are read. ``counted`` (M,) bool says which objects make
    their image one to train on: of COCO's, crowds do, as in torchvision's reference.
    """

    starts: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    trained: NDArray[np.bool_]
    numbers: NDArray[np.int64]
    counted: NDArray[np.bool_]
    shapes: Sequence[Shape] | None = None
    keypoints: NDArray[np.float32] | None = None

    @cached_property
    def images(self) -> NDArray[np.int64]:
        """(M,) the image of each object."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


def starts_of(images: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where the objects of each of ``count`` images begin, (count + 1,), in the sorted ``images`` (M,)."""
    return np.searchsorted(images, np.arange(count + 1))


def overhang(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """By how many pixels boxes (M, 4) x1 y1 x2 y2 leave images of ``sizes`` (M, 2) height, width; at most 0 inside."""
    beyond = boxes[:, 2:] - sizes[:, ::-1]
    return np.maximum(beyond, -boxes[:, :2]).max(1, initial=-np.inf)


def box_fault(box: Box, size: tuple[int, int]) -> str | None:
    """What is wrong with a box x1 y1 x2 y2 in an image of ``size`` (height, width), None where nothing is."""
    left, top, right, bottom = box
    if not all(map(math.isfinite, box)):
        return "has a box that is not finite"
    if right <= left or bottom <= top:
        return "has a box without an area"
    beyond = max(-left, -top, right - size[1], bottom - size[0])
    if beyond > STRAY + NOISE:
        return f"has a box that leaves its image of {size[1]} x {size[0]} by {beyond:g} pixels"
    return None


def is_unsafe(file: str) -> bool:
    """Whether the name of a file leads out of its folder: an absolute path, one of a drive, or one with ``..``."""
    parts = [*PurePosixPath(file).parts, *PureWindowsPath(file).parts]
    absolute = file.startswith(("/", "\\")) or PureWindowsPath(file).drive != ""
    return absolute or not file or "\0" in file or ".." in parts


def missing_from(folder: Path, files: Iterable[str]) -> NDArray[np.bool_]:
    """Whether each of some files is not in ``folder``; those of one folder are looked up in a list of it."""
    try:
        there = {entry.name for entry in os.scandir(folder) if entry.is_file()}
    except OSError:
        there = set()
    return np.array([file not in there and not _is_file(folder / file) for file in files], bool)


def _is_file(path: Path) -> bool:
    """Whether there is a file; of a name that is longer than a file system takes there is none."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True)
class ImageFolder:
    """N image files in ``folder`` by their names below it, with ``sizes`` (N, 2) height, width and the numbers (N,).

    ``short``: the names of files tell them apart, without folders.
    """

    folder: Path
    files: Sequence[str]
    sizes: NDArray[np.int64]
    ids: NDArray[np.int64]
    short: bool = False


class FileBoxes:
    """Image files with their objects. ``digest`` is a hash of the annotations and of how they are read.

    ``noun`` is what messages call an object.
    """

    def __init__(
        self,
        images: ImageFolder,
        objects: Objects,
        categories: Categories,
        faults: Faults,
        *,
        digest: str,
        noun: str = "annotation",
    ) -> None:
        self.images, self.table, self.categories, self.faults = images, objects, categories, faults
        self.digest, self.noun = digest, noun

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the annotations and of the images that they name."""
        folder = self.images.folder
        contents = FileContents(folder, [folder / file for file in self.images.files])
        return hashlib.sha256(f"{self.digest} {contents}".encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.images.files)

    def name(self, row: int) -> str:
        """The path of an image's file below its folder, without the ending, or its name alone."""
        path = PurePosixPath(self.images.files[row]).with_suffix("")
        return path.name if self.images.short else path.as_posix()

    def paths(self, row: int) -> tuple[Path]:
        """The image's file."""
        return (self.images.folder / self.images.files[row],)

    def size(self, row: int) -> tuple[int, int]:
        """(height, width), as the annotations or the file's header tell it."""
        height, width = self.images.sizes[row].tolist()
        return height, width

    def annotated(self, row: int) -> Annotated:
        """What the annotations say of an image, in arrays of its own."""
        table = self.table
        here = slice(int(table.starts[row]), int(table.starts[row + 1]))
        return Annotated(
            self.name(row),
            table.boxes[here].astype(np.float32),
            table.labels[here].copy(),
            table.areas[here].astype(np.float32),
            table.crowds[here].copy(),
            None if table.shapes is None else tuple(table.shapes[here]),
            None if table.keypoints is None else table.keypoints[here].copy(),
            int(self.images.ids[row]),
            self.size(row),
            table.trained[here].copy(),
        )

    def image(self, row: int) -> Image:
        """An image in RGB; KDError where its file is broken, or of another size than the annotations say."""
        (path,) = self.paths(row)
        image = read_image(path)
        if (image.height, image.width) != (size := self.size(row)):
            said = f"{self.faults.place} says {size[1]} x {size[0]}"
            raise KDError(f"{path}: is {image.width} x {image.height} pixels, and {said}")
        return image

    def read(self, row: int) -> tuple[Image, Annotated]:
        """An image and what the annotations say of it."""
        return self.image(row), self.annotated(row)

    def _of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place among ``rows`` and the row in the table of each of their objects."""
        starts, ends = self.table.starts[rows], self.table.starts[rows + 1]
        counts = ends - starts
        places = np.repeat(np.arange(len(rows)), counts)
        before = np.cumsum(counts) - counts
        return places, np.arange(len(places)) + np.repeat(starts - before, counts)

    def objects(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place among ``rows`` of the image of each object there, crowds left out, and its label."""
        places, objects = self._of(rows)
        counted = ~self.table.crowds[objects]
        return places[counted], self.table.labels[objects][counted]

    def trainable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """torchvision's rule: a box of more than a pixel in width and height, and with keypoints ten of them."""
        table = self.table
        places, objects = self._of(rows)
        wide = (table.boxes[objects, 2:] - table.boxes[objects, :2] > LEAST).all(1)
        counted = wide & table.counted[objects]
        there = np.bincount(places[counted], minlength=len(rows)) > 0
        if table.keypoints is not None:
            points = (table.keypoints[objects, :, 2] > 0).sum(1)
            there &= np.bincount(places, points, minlength=len(rows)) >= min(SEEN_KEYPOINTS, table.keypoints.shape[1])
        return there

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """Boxes that leave their image, and those without an area."""
        _, objects = self._of(rows)
        boxes, sizes = self.table.boxes[objects], self.images.sizes[self.table.images[objects]]
        flat = (boxes[:, 2:] <= boxes[:, :2]).any(1)
        out = ~flat & (overhang(boxes, sizes) > NOISE)
        return [
            *self._note(objects[out], "leaves its image, and trains as far as it is inside", LEAVE),
            *self._note(objects[flat], "has no area: it does not train", "have no area: they do not train"),
        ]

    def _note(self, objects: NDArray[np.int64], one: str, many: str) -> list[Note]:
        """A line on objects, the first of them by name; none where there are none."""
        names = [
            f"{self.noun} {self.table.numbers[row]} of {self.name(int(self.table.images[row]))}"
            for row in objects[:SHOWN].tolist()
        ]
        more = ", ..." if len(objects) > SHOWN else ""
        what = f"1 box {one}" if len(objects) == 1 else f"{len(objects):,} boxes {many}"
        return [Note(f"{self.faults.place}: {what} ({', '.join(names)}{more})")] if names else []
