"""Named data sets: facts about each that need no reading, and the function that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.rows import RowReader, RowSubset
from kd_core.data.sources import Source, check_source
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


class Pairs(RowReader["tuple[Image, NDArray[np.int16]]"], Protocol):
    """N images with their masks, read one by one."""

    @property
    def fingerprint(self) -> str:
        """A hash of what is there: names and sizes of the files, or the content."""
        ...

    def read(self, row: int) -> tuple[Image, NDArray[np.int16]]:
        """An RGB image and its mask (height, width): classes from 0, :data:`VOID`; KDError naming a broken file."""
        ...

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """What a run says of some rows: see :attr:`kd_core.data.sources.Parts.notes`."""
        ...


@dataclass(frozen=True)
class PairSubset(RowSubset["tuple[Image, NDArray[np.int16]]"]):
    """Some images with their masks."""

    pairs: Pairs
    chosen: NDArray[np.int64] | None = None

    @property
    def reader(self) -> Pairs:
        """The whole data set."""
        return self.pairs

    def take(self, positions: Tensor) -> PairSubset:
        """Those at some positions."""
        return PairSubset(self.pairs, self.rows[positions.numpy()])


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
