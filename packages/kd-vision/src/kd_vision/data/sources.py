"""Named data sets: facts about each that need no reading, and the function that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import distribution

import numpy as np
import torch

from kd_core.data.sources import Parts, Source, check_source
from kd_core.data.spec import IMAGENET_MEAN, IMAGENET_STD
from kd_core.data.subset import complement, stratified
from kd_core.registry import Registry
from kd_vision.data.labelled_subset import LabelledSubset, labelled_images


@dataclass(frozen=True, eq=False)
class ImageSource(Source[LabelledSubset]):
    """A data set of images with one class each. ``classes`` of its parts are None where only labels tell their number.

    ``shape`` (C, H, W) is None where only reading tells; where images differ in size, ``size`` is what they are brought
    to unless the config says otherwise, and ``channels`` what they then have. ``mean`` and ``std`` normalise channels
    in [0, 1]; ``augment`` is what training images undergo by default.
    """

    num_classes: int | None = None
    shape: tuple[int, int, int] | None = None
    size: int | None = None
    channels: int | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    augment: str = "none"


SOURCES: Registry[ImageSource] = Registry("data set", "kd.vision.data", check_source)


def read_digits() -> Parts[LabelledSubset]:
    """1,797 handwritten digits of 8x8 pixels that come with scikit-learn (UCI, Alpaydin & Kaynak 1998).

    The data set has no test split of its own: a fixed fifth of each class is one here. The file is read without
    ``sklearn.datasets``, whose import takes a second.
    """
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    digits = np.loadtxt(str(file), delimiter=",")
    images = torch.from_numpy(np.rint(digits[:, :-1] * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    everything = labelled_images(images, torch.from_numpy(digits[:, -1].astype(np.int64)))
    test = stratified(everything.target, len(everything) // 5, seed=0, purpose="test")
    train = complement(len(everything), test)
    return Parts(everything.take(train), None, everything.take(test), tuple("0123456789"))


SOURCES("digits")(
    ImageSource(
        "1,797 handwritten digits of 8x8 pixels, 10 classes; comes with scikit-learn",
        read_digits,
        splits=("train", "test"),
        num_classes=10,
        shape=(1, 8, 8),
        mean=(0.3053,),
        std=(0.3761,),
        augment="shift",
    )
)
