"""Parts of a data set that give batches: which images are in them, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kd_core.data.batch import SHARED, Batch, Split
from kd_core.data.loading import SampleLoader, SampleReader
from kd_core.data.rng import CounterRNG
from kd_seg.data.sources import PairSubset
from kd_seg.data.transforms import View

Sample = tuple[Tensor, Tensor, int]
"""An image (3, h, w), its mask (H, W) int16, and its row."""
Read = tuple[list[Tensor], list[Tensor], Tensor]
"""Images and masks as lists of one tensor (B, ...), or of B tensors (1, ...) where sizes differ, and the rows."""


class SegSplit(Split):
    """Images and masks as a ``view`` makes them, read by ``workers`` processes or, with 0, by this one."""

    def __init__(self, part: PairSubset, view: View, *, workers: int | None) -> None:
        self.part = part
        self.view = view
        self.loader = SampleLoader(PairReader(part, view), workers)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the data set and the choice."""
        state = hashlib.sha256(self.part.pairs.fingerprint.encode())
        state.update(self.part.rows.tobytes())
        return state.hexdigest()

    def __len__(self) -> int:
        return len(self.part)

    def name(self, row: int) -> str:
        """What an image is called that has the number ``row`` in :attr:`Batch.index`."""
        return self.part.pairs.name(row)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches of uint8 images (B, 3, h, w) and int64 masks (B, H, W), with ``extra["mask"]``: where a class is.

        Where sizes in a batch differ, images and masks are lists of one tensor a sample, and there is no mask. With
        workers, ``order`` is read ahead of what is yielded.
        """
        for images, masks, index in self.loader.batches(order, epoch=epoch, seed=seed, augment=augment):
            if len(images) == 1:  # int16 until here: less to hand over from process to process
                target = masks[0].long()
                yield Batch({SHARED: images[0]}, target, index, {"mask": target >= 0})
            else:
                views = [[tensor[0] for tensor in tensors] for tensors in (images, masks)]
                yield Batch({SHARED: views[0]}, [mask.long() for mask in views[1]], index)

    def close(self) -> None:
        """End the processes that read."""
        self.loader.close()


@dataclass(frozen=True)
class PairReader(SampleReader[Sample, Read]):
    """Positions in a part -> images and masks as a view makes them."""

    part: PairSubset
    view: View

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> Sample:
        """Image (3, h, w), mask (H, W) and row."""
        row = int(self.part.rows[position])
        draws = CounterRNG(seed, epoch, np.array([row])) if augment else None
        pixels, mask = self.view(*self.part.read(position), draws)
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return image, torch.from_numpy(np.ascontiguousarray(mask)), row

    def name(self, position: int) -> str:
        """``image 2007_000033``."""
        return f"image {self.part.name(position)}"

    def collate(self, samples: Sequence[Sample]) -> Read:
        """One tensor of images and one of masks, or one for each sample where sizes differ."""
        images, masks, rows = zip(*samples, strict=True)
        alike = all(len({tuple(tensor.shape) for tensor in tensors}) == 1 for tensors in (images, masks))
        if alike:
            return [torch.stack(images)], [torch.stack(masks)], torch.tensor(rows)
        return [image[None] for image in images], [mask[None] for mask in masks], torch.tensor(rows)
