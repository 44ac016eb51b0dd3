"""Named data sets: what is known of each beforehand, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kd_core.registry import Registry

if TYPE_CHECKING:
    from PIL.Image import Image

    from kd_seg.data.spec import DataSpec

VOID = -100
"""In a mask: the pixel has no class. It trains nothing and is not scored."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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
        """What messages and pictures call an image: ``2007_000033``."""
        ...

    def read(self, row: int) -> tuple[Image, NDArray[np.int16]]:
        """An RGB image and its mask (height, width): classes from 0, :data:`VOID`; KDError naming a broken file."""
        ...


@dataclass(frozen=True)
class Parts:
    """A data set as its authors split it. ``classes`` are the names of the classes, in order."""

    train: Pairs
    val: Pairs | None
    test: Pairs | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A data set. ``about`` is one line on it, for lists; ``read`` raises KDError where files are missing or broken.

    ``classes`` is None where only the config or reading tells. ``size`` is the pixels of the shorter side that images
    are scaled about in training, ``crop`` (height, width) of what is cut out of them. ``mean`` and ``std`` normalise
    channels in [0, 1].
    """

    about: str
    read: Callable[[DataSpec], Parts]
    classes: tuple[str, ...] | None = None
    size: int = 520
    crop: tuple[int, int] = (480, 480)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.about)  # where `kd-seg list data` looks


SOURCES: Registry[Source] = Registry("data set", "kd.seg.data")
