"""Named data sets of images with boxes: facts that need no reading, and the function that reads each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.rows import RowReader, RowSubset
from kd_core.data.screening import MANY, SKIP, few_bytes, listed, refuse
from kd_core.data.shapes import Shape
from kd_core.data.sources import PLACE, Parts, Source, check_source
from kd_core.data.summary import counts_text
from kd_core.errors import ConfigProblem, FaultyData, KDError
from kd_core.notes import Note
from kd_core.registry import Registry
from kd_vision.detection.data.categories import Categories

if TYPE_CHECKING:
    from PIL.Image import Image

FIRST = 10
"""Faults that an error names."""


@dataclass(frozen=True)
class Annotated:
    """What a data set says of an image's n objects, in the image's own pixels.

    ``boxes`` (n, 4) float32 x1 y1 x2 y2, as they are written: they may leave the image by a pixel. ``labels`` (n,)
    int64 from 1, ``areas`` (n,) float32, ``crowds`` (n,) bool: what no detection needs to find. ``shapes``, where they
    are read, has one of each object, and ``keypoints`` (n, K, 3) float32 x, y and visibility: 0 not there, 1 hidden, 2
    seen. ``image_id`` is the data set's own number of the image, ``size`` its (height, width). ``trained`` (n,) bool
    says which objects train, all but crowds for None.
    """

    name: str
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowds: NDArray[np.bool_]
    shapes: tuple[Shape, ...] | None
    keypoints: NDArray[np.float32] | None
    image_id: int
    size: tuple[int, int] | None
    trained: NDArray[np.bool_] | None = None

    def for_training(self, size: tuple[int, int]) -> Annotated:
        """The objects that train, none of them a crowd, with boxes inside the image of ``size`` (height, width).

        As in torchvision's reference, a box without an area inside it is left out.
        """
        height, width = size
        boxes = self.boxes.clip(0, np.array([width, height, width, height], np.float32))
        chosen = ~self.crowds if self.trained is None else self.trained
        rows = np.flatnonzero(chosen & (boxes[:, 2:] > boxes[:, :2]).all(1))
        return replace(
            self,
            boxes=boxes[rows],
            labels=self.labels[rows],
            areas=self.areas[rows],
            crowds=np.zeros(len(rows), bool),
            shapes=None if self.shapes is None else tuple(self.shapes[row] for row in rows.tolist()),
            keypoints=None if self.keypoints is None else self.keypoints[rows],
            size=size,
            trained=None,
        )


@dataclass(frozen=True)
class Faults:
    """What is wrong in the file or folder ``place``, in words, and what becomes of it where a config skips it."""

    place: str
    messages: Sequence[str] = ()

    def problem(self) -> ConfigProblem | None:
        """All faults in one error that shows the first of them; None where there are none."""
        if not self.messages:
            return None
        if len(self.messages) == 1:
            return ConfigProblem(f"{self.place}: {self.messages[0]}", "data", hint=SKIP.replace("them", "it"))
        lines = [f"\n    {message}" for message in self.messages[:FIRST]]
        lines += [f"\n    and {len(self.messages) - FIRST:,} more"] if len(self.messages) > FIRST else []
        return ConfigProblem(f"{self.place}: {len(self.messages):,} faults:{''.join(lines)}", "data", hint=SKIP)

    def notes(self) -> list[Note]:
        """A warning of what is left out; none where there is nothing."""
        if not self.messages:
            return []
        number = len(self.messages)
        what = "1 annotation or image is" if number == 1 else f"{number:,} annotations or images are"
        text = f"{self.place}: {what} left out:{listed(self.messages)}"
        return [Note.warning(text)]


class Boxes(RowReader["tuple[Image, Annotated]"], Protocol):
    """N images with their objects, read one by one."""

    categories: Categories
    faults: Faults

    @property
    def fingerprint(self) -> str:
        """A hash of what is there: annotations and images."""
        ...

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of an image, which is not read for that."""
        ...

    def annotated(self, row: int) -> Annotated:
        """What is said of an image, which is not read for that."""
        ...

    def image(self, row: int) -> Image:
        """An image in RGB; KDError naming a broken file."""
        ...

    def read(self, row: int) -> tuple[Image, Annotated]:
        """Both of them; KDError where they do not go together."""
        ...

    def objects(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The place among ``rows`` of the image of each object there, crowds left out, and its label."""
        ...

    def trainable(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of some rows, whether the image has anything to train on: see docs/detection.md."""
        ...

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """What a run says of some rows: see :attr:`kd_core.data.sources.Parts.notes`."""
        ...


@dataclass(frozen=True)
class BoxSubset(RowSubset["tuple[Image, Annotated]"]):
    """Some rows of a data set, ascending: ``chosen`` ones, or all. No image is read before it is asked for."""

    boxes: Boxes
    chosen: NDArray[np.int64] | None = None
    objects_only: bool = False
    """Leave out the images that have nothing to train on."""

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the rows; KDError where none of them has anything to train on, and that is asked for."""
        rows = self.candidates
        if not self.objects_only:
            return rows
        there = self.boxes.trainable(rows)
        if not there.any():
            message = f"{self.boxes.faults.place}: no image has a box to train on"
            raise KDError(message, hint="`data.empty_images: true` trains on images without any", path="data")
        return rows[there]

    @property
    def reader(self) -> Boxes:
        """The whole data set."""
        return self.boxes

    def size(self, position: int) -> tuple[int, int]:
        """(height, width) of the image at a position, which is not read for that."""
        return self.boxes.size(int(self.rows[position]))

    def annotated(self, position: int) -> Annotated:
        """What is said of the image at a position, which is not read for that."""
        return self.boxes.annotated(int(self.rows[position]))

    def take(self, positions: Tensor) -> BoxSubset:
        """Those at some positions."""
        return BoxSubset(self.boxes, self.rows[positions.numpy()])

    def with_objects(self) -> BoxSubset:
        """The images that have anything to train on."""
        return replace(self, objects_only=True)

    @property
    def class_pairs(self) -> Tensor:
        """(2, P) positions and labels of all objects; crowds do not count."""
        return torch.from_numpy(np.stack(self.boxes.objects(self.rows)).astype(np.int64))

    @cached_property
    def class_counts(self) -> dict[str, int]:
        """How many images hold each class, by its name; crowds do not count."""
        places, labels = self.boxes.objects(self.rows)
        pairs = np.unique(places * len(self.boxes.categories.names) + labels)
        return self._by_class(pairs % len(self.boxes.categories.names))

    def _by_class(self, labels: NDArray[np.int64]) -> dict[str, int]:
        """How often each class is among ``labels``."""
        categories = self.boxes.categories
        counts = np.bincount(labels, minlength=len(categories.names))
        return {categories.names[label]: int(counts[label]) for label in categories.labels.tolist()}

    def notes(self) -> list[Note]:
        """How many boxes and images without one there are, and what there is to say of the annotations."""
        places, labels = self.boxes.objects(self.rows)
        empty = len(self) - len(np.unique(places))
        text = f"{_counted(len(labels), 'box', 'boxes')}"
        text += f": {counts_text(self._by_class(labels))}" if len(labels) else ""
        text += f"; {_counted(empty, 'image', 'images')} without a box" if empty else ""
        if left := len(self.candidates) - len(self):
            text += f"; {_counted(left, 'image', 'images')} without a box to train on left out"
        return [Note(text), *self.boxes.notes(self.rows)]


def _counted(number: int, one: str, many: str) -> str:
    return f"1 {one}" if number == 1 else f"{number:,} {many}"


def checked(parts: Parts[BoxSubset], *, skip: bool) -> Parts[BoxSubset]:
    """A data set of which the annotations have no fault: KDError that names all, or to ``skip`` them a warning.

    The error names the images that cannot be read, too, as far as they would be tried before a run.
    """
    faults = list({id(part.boxes.faults): part.boxes.faults for part in parts.items().values()}.values())
    if skip:
        return replace(parts, notes=(*parts.notes, *(note for each in faults for note in each.notes())))
    if problems := [problem for each in faults if (problem := each.problem()) is not None]:
        raise FaultyData([*problems, *_unreadable(parts)])
    return parts


def _unreadable(parts: Parts[BoxSubset]) -> list[ConfigProblem]:
    """What is wrong with image files: few are read whole, of many both ends are looked at, of very many none is."""
    files = [files for part in parts.items().values() if (files := part.files()) is not None]
    whole = few_bytes(files)
    if not whole and sum(len(each.positions) for each in files) > MANY:
        return []
    try:
        refuse(error for each in files for error in each.errors(whole=whole).values())
    except KDError as error:
        return error.at("data").problems
    return []


def overlap(split: str, files: Sequence[Path], seen: dict[Path, str]) -> list[Note]:
    """A warning of images that another split has, too; none where there are none. All become ``seen``."""
    both = [path for path in files if path in seen]
    others = sorted({seen[path] for path in both})
    seen |= {path: split for path in files if path not in seen}
    count = "1 image" if len(both) == 1 else f"{len(both):,} images"
    text = f"{count} of the split {split} {'is' if len(both) == 1 else 'are'} in {' and '.join(others)}, too"
    return [Note.warning(f"{text} ({both[0].name}{', ...' if len(both) > 1 else ''})")] if both else []


@dataclass(frozen=True, eq=False)
class BoxSource(Source[BoxSubset]):
    """A data set of images with boxes.

    ``categories`` is None where only an option ``classes``, or reading, tells. What ``read`` takes of :attr:`place`
    says whether there are masks and keypoints; ``skip`` is for data that are read late.
    """

    place: ClassVar[tuple[str, ...]] = (*PLACE, "masks", "keypoints", "skip")

    categories: Categories | None = None
    keypoint_categories: Categories | None = None
    """The same where keypoints are asked for."""

    def known(self, options: Mapping[str, Any], *, keypoints: bool) -> Categories | None:
        """The categories, as far as the data set's name, or an option ``classes``, tells."""
        if names := options.get("classes"):
            return Categories.listed(names)
        return self.keypoint_categories if keypoints else self.categories

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of the classes in the order of their labels, without the background."""
        return None if self.categories is None else self.categories.names[1:]


SOURCES: Registry[BoxSource] = Registry("data set", "kd.vision.detection", check_source)
