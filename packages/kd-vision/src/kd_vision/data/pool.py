"""Images with their labels, and the choice of some of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_core.data.batch import ABSENT
from kd_core.data.rng import derive_key, random_u64
from kd_core.errors import KDError

UNLABELLED = -100


@dataclass(frozen=True)
class LabelledSubset:
    """N labelled images of a data set, or some of them.

    ``images`` is the whole data set: uint8 (rows, C, H, W), or a torch ``Dataset`` of (image, label). ``index`` (N,)
    holds the rows that belong to this pool, ``target`` (N,) their classes, -100 where there is none. ``fingerprint`` is
    a hash of the data set's content.
    """

    images: Any
    target: Tensor
    index: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.index)

    def take(self, positions: Tensor) -> LabelledSubset:
        """The pool of these positions, in this order."""
        return replace(self, target=self.target[positions], index=self.index[positions])

    def hide_labels(self, keep: Tensor) -> LabelledSubset:
        """The same images with labels at the positions ``keep`` only."""
        target = torch.full_like(self.target, UNLABELLED)
        target[keep] = self.target[keep]
        return replace(self, target=target)

    def target_of_rows(self) -> Tensor:
        """(rows,): the class of each row of the whole data set, -1 for those that are not in this pool."""
        target = torch.full((len(self.images),), ABSENT)
        target[self.index] = self.target
        return target

    def digest(self) -> str:
        """A hash of content, choice and labels."""
        state = hashlib.sha256(self.fingerprint.encode())
        for tensor in (self.index, self.target):
            state.update(tensor.numpy().tobytes())
        return state.hexdigest()[:16]


def labelled_images(images: Tensor, target: Tensor) -> LabelledSubset:
    """A pool of all rows of uint8 ``images`` (N, C, H, W) with ``target`` (N,)."""
    assert images.dtype == torch.uint8
    assert len(images) == len(target)
    state = hashlib.sha256(repr(tuple(images.shape)).encode())
    for tensor in (images, target):
        state.update(np.ascontiguousarray(tensor.numpy()).data)
    return LabelledSubset(images, target, torch.arange(len(target)), state.hexdigest())


def stratified(target: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """Positions, ascending, of ``count`` samples in which every class keeps its share to within one sample.

    A pure function of (labels, count, seed, purpose). KDError where there are fewer than ``count``.
    """
    if count > len(target):
        raise KDError(f"data.{purpose}: asks for {count} images, and there are {len(target)}")
    _, sizes = np.unique(target.numpy(), return_counts=True)
    exact = sizes * (count / max(len(target), 1))
    quota = np.floor(exact).astype(np.int64)
    largest_rest = np.argsort(quota - exact, kind="stable")
    quota[largest_rest[: count - quota.sum()]] += 1
    return _first_of_each_class(target, quota, derive_key(purpose, seed))


def balanced(target: Tensor, per_class: int, *, seed: int) -> Tensor:
    """Positions, ascending, of ``per_class`` samples of each class; KDError where a class has fewer."""
    classes, sizes = np.unique(target.numpy(), return_counts=True)
    if sizes.min() < per_class:
        raise KDError(
            f"asks for {per_class} images of each class, and class {classes[sizes.argmin()]} has {sizes.min()}",
            path="data.per_class",
        )
    return _first_of_each_class(target, np.full_like(sizes, per_class), derive_key("per_class", seed))


def _first_of_each_class(target: Tensor, quota: np.ndarray, key: int) -> Tensor:
    """The first ``quota[k]`` positions of the k-th class, in an order that ``key`` decides."""
    labels = target.numpy()
    order = np.lexsort((random_u64(key, np.arange(len(labels))), labels))
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(starts, sizes)
    return torch.from_numpy(np.sort(order[rank < np.repeat(quota, sizes)]))


def complement(length: int, positions: Tensor) -> Tensor:
    """The positions of 0 .. length - 1 that are not among ``positions``, ascending."""
    keep = torch.ones(length, dtype=torch.bool)
    keep[positions] = False
    return keep.nonzero().flatten()


def only_classes(pool: LabelledSubset, classes: list[int]) -> LabelledSubset:
    """The images of some classes, which become 0, 1, ... in the order given; images without a label stay."""
    new = torch.full((max([*classes, int(pool.target.max())]) + 1,), -1)
    new[classes] = torch.arange(len(classes))
    target = torch.where(pool.target >= 0, new[pool.target.clamp(min=0)], pool.target)
    chosen = (target != -1).nonzero().flatten()
    return replace(pool, target=target).take(chosen)
