"""Which rows of a memory a sample is contrasted with: random, and yet a pure function of (seed, step, sample)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_core.data.batch import ABSENT
from kd_core.data.rng import below, random_bits
from kd_core.errors import KDError


class ContrastRows(nn.Module):
    """For a batch's samples the rows they are contrasted with: (B,) -> (B, 1 + negatives), the positive row first.

    Without ``targets`` the positive is the sample itself and negatives are any of ``num_samples`` rows. With them (a
    class a row, -100 where unlabelled, -1 where the row does not train) negatives are rows of other classes, and with
    ``relaxed`` the positive is any row of the sample's class. All are drawn uniformly, with replacement. An unlabelled
    sample is its own positive, and any row its negative. KDError where there are no negatives.
    """

    labels: Tensor
    order: Tensor
    """The rows that train, unlabelled ones first, then class by class, each from ``starts`` on for ``sizes``."""
    sizes: Tensor
    starts: Tensor

    def __init__(self, num_samples: int, targets: Sequence[int] | None, *, negatives: int, relaxed: bool) -> None:
        super().__init__()
        self.negatives, self.relaxed = negatives, relaxed
        labels = torch.full((num_samples,), -100) if targets is None else torch.as_tensor(targets)
        if len(labels) != num_samples:
            raise KDError(f"targets has {len(labels)} rows, num_samples is {num_samples}", path="targets")
        self.candidates = int((labels != ABSENT).sum())
        sizes = torch.bincount(labels[labels >= 0])
        if self.candidates < 2 or (len(sizes) and int(sizes.max()) == self.candidates):
            raise KDError("there are no negatives: all training rows are of one class, or there is only one row")
        order = torch.where(labels == ABSENT, torch.iinfo(torch.int64).max, labels).argsort(stable=True)
        unlabelled = self.candidates - sizes.sum()  # they come first
        for name, values in {
            "labels": labels,
            "order": order[: self.candidates],
            "sizes": sizes if len(sizes) else sizes.new_zeros(1),
            "starts": unlabelled + sizes.cumsum(0) - sizes if len(sizes) else sizes.new_zeros(1),
        }.items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, index: Tensor, seed: Tensor) -> Tensor:
        """``index`` (B,) the samples' rows, ``seed`` an integer -> (B, 1 + negatives) rows."""
        labels = self.labels[index]
        labelled, classes = labels >= 0, labels.clamp(min=0)
        sizes = torch.where(labelled, self.sizes[classes], 0)[:, None]
        starts = torch.where(labelled, self.starts[classes], 0)[:, None]
        bits = random_bits(seed, index, 1 + self.negatives)
        drawn = below(bits, self.candidates - sizes)
        rows = self.order[drawn.add_(sizes * (drawn >= starts))]
        rows[:, 0] = index
        if self.relaxed:
            same = self.order[starts + below(bits[:, :1], sizes)][:, 0]
            rows[:, 0] = torch.where(labelled, same, index)
        return rows
