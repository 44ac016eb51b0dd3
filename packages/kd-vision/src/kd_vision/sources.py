"""Named data sets, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch

from kd_core.registry import Registry
from kd_vision.pool import Pool, all_but, pool_of, stratified

if TYPE_CHECKING:
    from kd_vision.spec import Data

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Parts:
    """A data set as its authors split it. ``classes`` are the names of the classes, in order."""

    train: Pool
    val: Pool | None
    test: Pool | None
    classes: tuple[str, ...]


class Source(Protocol):
    """A data set: what is known of it beforehand, and how it is read.

    ``shape`` (C, H, W) is None where images differ in size; ``mean`` and ``std`` normalise channels in [0, 1]; ``augment`` is what
    training images undergo unless the config says otherwise.
    """

    num_classes: ClassVar[int | None]
    shape: ClassVar[tuple[int, int, int] | None]
    mean: ClassVar[tuple[float, ...]]
    std: ClassVar[tuple[float, ...]]
    augment: ClassVar[str]

    def read(self, data: Data) -> Parts:
        """The images and labels; KDError where they are missing or broken."""
        ...


SOURCES: Registry[type[Source]] = Registry("data set", "kd.vision.data")


@SOURCES("digits")
class Digits:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn (UCI, Alpaydin & Kaynak 1998).

    The data set has no test split of its own: a fixed fifth of each class is one here.
    """

    num_classes = 10
    shape = (1, 8, 8)
    mean = (0.3053,)
    std = (0.3761,)
    augment = "shift"

    def read(self, data: Data) -> Parts:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8))[:, None]
        everything = pool_of(images, torch.from_numpy(digits.target.astype(np.int64)))
        test = stratified(everything.target, len(everything) // 5, seed=0, purpose="test")
        train = all_but(len(everything), test)
        return Parts(everything.take(train), None, everything.take(test), tuple("0123456789"))
