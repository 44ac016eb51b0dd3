"""Named data sets: facts about each that need no reading, and the function that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.screening import Readable, skipped
from kd_core.data.sources import SPLITS, Parts, Source, check_source
from kd_core.data.spec import IMAGENET_MEAN, IMAGENET_STD
from kd_core.notes import Note
from kd_core.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

VOID = -100
"""In a mask: the pixel has no class. It trains nothing and is not scored."""
VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


class Pairs(Protocol):
    """N images with their masks, read one by one."""

    @property
    def fingerprint(self) -> str:
        """A hash of what is there: names and sizes of the files, or the content."""
        ...

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """The name of an image in messages and pictures: ``2007_000033``."""
        ...

    def paths(self, row: int) -> Sequence[Path]:
        """The files that a row is read from, each of its own; none where it is made or lies in a file of many."""
        ...

    def read(self, row: int) -> tuple[Image, NDArray[np.int16]]:
        """An RGB image and its mask (height, width): classes from 0, :data:`VOID`; KDError naming a broken file."""
        ...

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """What a run says of some rows: see :attr:`kd_core.data.sources.Parts.notes`."""
        ...


@dataclass(frozen=True)
class PairSubset:
    """Some rows of a data set, ascending: ``chosen`` ones, or all. Nothing is read before it is asked for."""

    pairs: Pairs
    chosen: NDArray[np.int64] | None = None

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the rows."""
        return np.arange(len(self.pairs)) if self.chosen is None else self.chosen

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> None:
        """A mask has many classes."""
        return None

    def name(self, position: int) -> str:
        """The name, in messages and pictures, of the image at a position."""
        return self.pairs.name(int(self.rows[position]))

    def read(self, position: int) -> tuple[Image, NDArray[np.int16]]:
        """The RGB image and the mask at a position; KDError naming a broken file."""
        return self.pairs.read(int(self.rows[position]))

    def files(self) -> Readable | None:
        """The samples as they are read from files, None where they are made."""
        if not len(self) or not self.pairs.paths(int(self.rows[0])):
            return None
        return Readable(self.read, lambda position: self.pairs.paths(int(self.rows[position])), range(len(self)))

    def take(self, positions: Tensor) -> PairSubset:
        """Those at some positions."""
        return PairSubset(self.pairs, self.rows[positions.numpy()])


def skip_unreadable(parts: Parts[PairSubset]) -> Parts[PairSubset]:
    """A data set as its authors split it, without the samples of which a file cannot be read."""
    notes, chosen = list(parts.notes), {}
    for name, part in parts.items().items():
        files = part.files()
        errors = {} if files is None else files.errors(whole=True)
        notes += skipped(errors.values(), len(part))
        kept = [position for position in range(len(part)) if position not in errors]
        chosen[name] = part.take(torch.tensor(kept, dtype=torch.int64))
    train, val, test = (chosen.get(name) for name in SPLITS)
    return replace(parts, train=train, val=val, test=test, origins={}, notes=tuple(notes)).with_origins()


@dataclass(frozen=True, eq=False)
class MaskSource(Source[PairSubset]):
    """A data set of images with masks.

    ``classes`` is None where only an option ``classes``, or reading, tells. ``size`` is the pixels of the shorter side
    that images are scaled about in training, ``crop`` (height, width) of what is cut out of them. ``mean`` and ``std``
    normalise channels in [0, 1].
    """

    classes: tuple[str, ...] | None = None
    size: int = 520
    crop: tuple[int, int] = (480, 480)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


SOURCES: Registry[MaskSource] = Registry("data set", "kd.seg.data", check_source)
