"""Data sets that fit in memory: batches are cut out of one uint8 tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from kd_core.task import SHARED, Batch
from kd_vision.data.augment import Augmentation
from kd_vision.data.pool import Pool


class ArraySplit:
    """Part of a data set whose images are one uint8 tensor."""

    def __init__(self, pool: Pool, augmentation: Augmentation) -> None:
        self.pool = pool
        self.augmentation = augmentation
        self.fingerprint = pool.digest()
        self.fixed = not augmentation.operations

    @property
    def rows(self) -> int:
        """Rows of the unsplit data set, among which ``Batch.index`` counts."""
        return len(self.pool.images)

    def __len__(self) -> int:
        return len(self.pool)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches of uint8 images (B, C, H, W)."""
        for positions in order:
            index = self.pool.index.index_select(0, positions)
            images = self.pool.images.index_select(0, index)
            if augment:
                images = self.augmentation(images, seed=seed, epoch=epoch, index=index)
            yield Batch({SHARED: images}, self.pool.target.index_select(0, positions), index)
