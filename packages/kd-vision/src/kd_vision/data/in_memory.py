"""Data sets that fit in memory: batches are cut out of one uint8 tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from torch import Tensor

from kd_core.data.batch import SHARED, Batch, Split
from kd_core.data.showings import marked, positions_of
from kd_vision.data.augment import Augmentation
from kd_vision.data.labelled_subset import LabelledSubset


class ArraySplit(Split):
    """Part of a data set whose images are one uint8 tensor."""

    marks = True

    def __init__(self, subset: LabelledSubset, augmentation: Augmentation) -> None:
        self.subset = subset
        self.augmentation = augmentation
        self.fixed = not augmentation.operations

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data set, the choice and the labels."""
        return self.subset.digest()

    @property
    def content(self) -> str:
        """A hash of the whole data set."""
        return str(self.subset.fingerprint)

    @property
    def sample_classes(self) -> Tensor:
        """The class of each sample."""
        return self.subset.target

    @property
    def sample_weights(self) -> Tensor | None:
        """The weight of each sample, where the data have any."""
        return self.subset.weights

    def __len__(self) -> int:
        return len(self.subset)

    def strong(self) -> ArraySplit:
        """The same images, whose augmentation ends with RandAugment."""
        return ArraySplit(self.subset, self.augmentation.stronger())

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches of uint8 images (B, C, H, W)."""
        for marked_positions in order:
            positions = positions_of(marked_positions)
            index = self.subset.index.index_select(0, positions)
            images = self.subset.images.index_select(0, index)
            if augment:
                images = self.augmentation(images, seed=seed, epoch=epoch, index=marked(index, marked_positions))
            yield Batch({SHARED: images}, self.subset.target.index_select(0, positions), index)
