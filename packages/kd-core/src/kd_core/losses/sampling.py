"""Which rows of a memory a sample is contrasted with: random, and yet a pure function of (seed, step, sample)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.task import ABSENT

GOLDEN = -7046029254386353131
"""splitmix64's increment, 2**64 over the golden ratio, as a signed number."""
MIX = ((30, -4658895280553007687), (27, -7723592293110705685), (31, 1))
"""splitmix64's shifts and factors (Steele, Lea & Flood, OOPSLA 2014)."""


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
            raise KDError(f"targets has {len(labels)} rows, num_samples is {num_samples}")
        self.candidates = int((labels != ABSENT).sum())
        sizes = torch.bincount(labels[labels >= 0])
        if self.candidates < 2 or (len(sizes) and int(sizes.max()) == self.candidates):
            raise KDError("there are no negatives: the rows that train are of one class, or there is but one")
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
        """``index`` (B,) the samples' rows, ``seed`` a whole number -> (B, 1 + negatives) rows."""
        labels = self.labels[index]
        labelled, known = labels >= 0, labels.clamp(min=0)
        sizes = torch.where(labelled, self.sizes[known], 0)[:, None]
        starts = torch.where(labelled, self.starts[known], 0)[:, None]
        bits = random_bits(seed, index, 1 + self.negatives)
        drawn = below(bits, self.candidates - sizes)
        rows = self.order[drawn.add_(sizes * (drawn >= starts))]
        rows[:, 0] = index
        if self.relaxed:
            same = self.order[starts + below(bits[:, :1], sizes)][:, 0]
            rows[:, 0] = torch.where(labelled, same, index)
        return rows


def random_bits(seed: Tensor, keys: Tensor, count: int) -> Tensor:
    """Whole numbers of 31 random bits, (B, count): row i is a pure function of ``seed`` and ``keys[i]``."""
    counter = torch.arange(1, count + 1, device=keys.device) * GOLDEN
    return shifted(_mixed(_mixed(seed + keys * GOLDEN)[:, None] + counter), 33)


def _mixed(numbers: Tensor) -> Tensor:
    """splitmix64's output function, in place."""
    for shift, factor in MIX:
        numbers.bitwise_xor_(shifted(numbers, shift)).mul_(factor)
    return numbers


def shifted(numbers: Tensor, by: int) -> Tensor:
    """64 bits shifted to the right, zeros coming in."""
    return (numbers >> by).bitwise_and_((1 << (64 - by)) - 1)


def below(bits: Tensor, bound: Tensor) -> Tensor:
    """31 random bits -> whole numbers from 0 to ``bound`` - 1 (0 where that is 0)."""
    return (bits * bound) >> 31
