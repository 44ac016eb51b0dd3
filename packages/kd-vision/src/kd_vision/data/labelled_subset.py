"""Images with their labels, and the choice of some of them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_core.data.batch import ABSENT

UNLABELLED = -100


@dataclass(frozen=True)
class LabelledSubset:
    """N labelled images of a data set, or some of them.

    ``images`` is the whole data set: uint8 (rows, C, H, W), or a torch ``Dataset`` of (image, label). ``index`` (N,)
    holds the rows that belong to this subset, ``target`` (N,) their classes, -100 where there is none.
    ``fingerprint`` is, as text, a hash of the data set's content, which may be computed when it is asked for.
    """

    images: Any
    target: Tensor
    index: Tensor
    fingerprint: object
    weights: Tensor | None = None
    """(N,) a weight of each image, from 0 on, for the sampler ``weighted``."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def labels(self) -> Tensor:
        """(N,) the class of each image."""
        return self.target

    def take(self, positions: Tensor) -> LabelledSubset:
        """The subset of these positions, in this order."""
        weights = None if self.weights is None else self.weights[positions]
        return replace(self, target=self.target[positions], index=self.index[positions], weights=weights)

    def hide_labels(self, keep: Tensor) -> LabelledSubset:
        """The same images with labels at the positions ``keep`` only."""
        target = torch.full_like(self.target, UNLABELLED)
        target[keep] = self.target[keep]
        return replace(self, target=target)

    def target_of_rows(self) -> Tensor:
        """(rows,): the class of each row of the whole data set, -1 for those that are not in this subset."""
        target = torch.full((len(self.images),), ABSENT)
        target[self.index] = self.target
        return target

    def digest(self) -> str:
        """A hash of content, choice and labels."""
        state = hashlib.sha256(str(self.fingerprint).encode())
        for tensor in (self.index, self.target, *([] if self.weights is None else [self.weights])):
            state.update(tensor.numpy().tobytes())
        return state.hexdigest()[:16]


def labelled_images(images: Tensor, target: Tensor) -> LabelledSubset:
    """A subset of all rows of uint8 ``images`` (N, C, H, W) with ``target`` (N,)."""
    assert images.dtype == torch.uint8
    assert len(images) == len(target)
    state = hashlib.sha256(repr(tuple(images.shape)).encode())
    for tensor in (images, target):
        state.update(np.ascontiguousarray(tensor.numpy()).data)
    return LabelledSubset(images, target, torch.arange(len(target)), state.hexdigest())


def only_classes(subset: LabelledSubset, classes: list[int]) -> LabelledSubset:
    """The images of some classes, which become 0, 1, ... in the order given; images without a label stay."""
    new = torch.full((max([*classes, int(subset.target.max())]) + 1,), -1)
    new[classes] = torch.arange(len(classes))
    target = torch.where(subset.target >= 0, new[subset.target.clamp(min=0)], subset.target)
    chosen = (target != -1).nonzero().flatten()
    return replace(subset, target=target).take(chosen)
