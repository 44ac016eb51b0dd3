"""Named data sets: what is known of each beforehand, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from kd_core.registry import Registry
from kd_vision.data.pool import LabelledSubset, complement, labelled_images, stratified

if TYPE_CHECKING:
    from kd_vision.data.spec import DataSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Parts:
    """A data set as its authors split it. ``classes`` are the names of the classes, in order."""

    train: LabelledSubset
    val: LabelledSubset | None
    test: LabelledSubset | None
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """A data set. ``about`` is one line on it, for lists; ``read`` raises KDError where files are missing or broken.

    ``shape`` (C, H, W) is None where only reading tells; where images differ in size, ``size`` is what they are brought
    to unless the config says otherwise. ``mean`` and ``std`` normalise channels in [0, 1]; ``augment`` is what training
    images undergo by default.
    """

    about: str
    read: Callable[[DataSpec], Parts]
    num_classes: int | None = None
    shape: tuple[int, int, int] | None = None
    size: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    augment: str = "none"

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.about)  # where `kd-vision list data` looks


SOURCES: Registry[Source] = Registry("data set", "kd.vision.data")


def read_digits(data: DataSpec) -> Parts:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn (UCI, Alpaydin & Kaynak 1998).

    The data set has no test split of its own: a fixed fifth of each class is one here.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
    everything = labelled_images(images, torch.from_numpy(digits.target.astype(np.int64)))
    test = stratified(everything.target, len(everything) // 5, seed=0, purpose="test")
    train = complement(len(everything), test)
    return Parts(everything.take(train), None, everything.take(test), tuple("0123456789"))


SOURCES("digits")(
    Source(
        "1,797 handwritten digits of 8x8 pixels, 10 classes; comes with scikit-learn",
        read_digits,
        num_classes=10,
        shape=(1, 8, 8),
        mean=(0.3053,),
        std=(0.3761,),
        augment="shift",
    )
)
