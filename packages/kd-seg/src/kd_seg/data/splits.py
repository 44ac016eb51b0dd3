"""Parts of a data set that give batches: which images are in them, and how they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_core.data.batch import SHARED, Batch, Split
from kd_core.data.rng import CounterRNG, derive_key, random_u64
from kd_core.data.workers import available_cores, start_worker
from kd_core.errors import KDError
from kd_seg.data.sources import Pairs, Parts
from kd_seg.data.spec import DataSpec
from kd_seg.data.transforms import View

VAL_SHARE = 0.1
"""The share of the training images that validates, for data sets without a validation split."""

Read = tuple[list[Tensor], list[Tensor], Tensor]


@dataclass(frozen=True)
class Part:
    """Some rows of a data set, ascending: ``chosen`` ones, or all. Nothing is read before it is asked for."""

    pairs: Pairs
    chosen: NDArray[np.int64] | None = None

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """(N,) the rows."""
        return np.arange(len(self.pairs)) if self.chosen is None else self.chosen

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: NDArray[np.int64]) -> Part:
        """Those at some positions."""
        return Part(self.pairs, self.rows[positions])


class SegSplit(Split):
    """Images and masks as a ``view`` makes them, read by ``workers`` processes or, with 0, by this one."""

    def __init__(self, part: Part, view: View, *, workers: int | None) -> None:
        self.part = part
        self.view = view
        self.workers = available_cores() if workers is None else workers

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
        loader = DataLoader(
            _Reader(self.part, self.view, seed, epoch, augment),
            batch_sampler=map(Tensor.tolist, order),
            num_workers=self.workers,
            collate_fn=_together,
            worker_init_fn=start_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it draws from the global one
        )
        for read in loader:
            if isinstance(read, KDError):
                raise read
            images, masks, index = read
            if len(images) == 1:  # int16 until here: less to hand over from process to process
                target = masks[0].long()
                yield Batch({SHARED: images[0]}, target, index, {"mask": target >= 0})
            else:
                views = [[one[0] for one in each] for each in (images, masks)]
                yield Batch({SHARED: views[0]}, [mask.long() for mask in views[1]], index)


@dataclass(frozen=True)
class _Reader(Dataset[tuple[Tensor, Tensor, int] | KDError]):
    """Positions in a part -> image (3, h, w), mask (H, W) and row, or what is wrong with them."""

    part: Part
    view: View
    seed: int
    epoch: int
    augment: bool

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, int] | KDError:
        row = int(self.part.rows[position])
        draws = CounterRNG(self.seed, self.epoch, np.array([row])) if self.augment else None
        try:
            pixels, mask = self.view(*self.part.pairs.read(row), draws)
        except KDError as error:  # an exception would lose its type on the way out of a worker
            return error
        except OSError as error:
            return KDError(f"image {self.part.pairs.name(row)}: {error}")
        image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        return image, torch.from_numpy(np.ascontiguousarray(mask)), row


def _together(samples: Sequence[tuple[Tensor, Tensor, int] | KDError]) -> Read | KDError:
    """Images and masks as lists of one tensor (B, ...), or of B tensors (1, ...) where sizes differ, and the rows.

    The first thing that is wrong with a sample, if any is.
    """
    read: list[tuple[Tensor, Tensor, int]] = []
    for sample in samples:
        if isinstance(sample, KDError):
            return sample
        read.append(sample)
    images, masks, rows = [one for one, _, _ in read], [mask for _, mask, _ in read], [row for _, _, row in read]
    alike = all(len({tuple(one.shape) for one in each}) == 1 for each in (images, masks))
    if alike:
        return [torch.stack(images)], [torch.stack(masks)], torch.tensor(rows)
    return [image[None] for image in images], [mask[None] for mask in masks], torch.tensor(rows)


def split(parts: Parts, data: DataSpec, seed: int) -> tuple[Part, Part | None, Part | None]:
    """The training, validation and test images that the config wants: ``limit``, then ``val``.

    A pure function of the data set, the config and the seed. Where ``data.val`` takes its images from those to train
    on, the data set's own validation images become the test. KDError where nothing would be left to train on, and
    where there is no room for ``data.val``.
    """
    limits = data.limits
    train, val, test = (None if pairs is None else Part(pairs) for pairs in (parts.train, parts.val, parts.test))
    train = at_most(train, limits.train, seed, "train")
    assert train is not None
    if val is not None and data.val is not None:
        if test is not None:
            raise KDError(
                "the data set has images of its own to validate and to test; leave 'val' out", path="data.val"
            )
        val, test = None, val
    elif val is not None:
        return train, at_most(val, limits.val, seed, "val"), at_most(test, limits.test, seed, "test")
    share = VAL_SHARE if data.val is None else data.val
    count = share if isinstance(share, int) else round(len(train) * share)
    if count >= len(train):
        raise KDError(f"{count} of {len(train)} images for validation leave none to train on", path="data.val")
    held = chosen(len(train), count, seed, "val")
    val = at_most(train.take(held), limits.val, seed, "limit.val")
    return train.take(np.setdiff1d(np.arange(len(train)), held)), val, at_most(test, limits.test, seed, "test")


def at_most(part: Part | None, count: int | None, seed: int, purpose: str) -> Part | None:
    """``count`` of a part's images where it has more."""
    if part is None:
        return None
    return part if count is None or count >= len(part) else part.take(chosen(len(part), count, seed, purpose))


def chosen(length: int, count: int, seed: int, purpose: str) -> NDArray[np.int64]:
    """``count`` of 0 .. length - 1, ascending: a pure function, in which a larger count adds to a smaller one."""
    order = np.argsort(random_u64(derive_key(purpose, seed), np.arange(length)), kind="stable")
    return np.sort(order[:count])
