"""Samples that an epoch shows several times: marks on their positions, by which the showings differ in augmentation.

``position + k * AGAIN`` is the k-th further showing of a sample in the epoch, which is augmented by draws of its own.
"""

from __future__ import annotations

from torch import Tensor

AGAIN = 2**40
"""What is added to the position of a sample for each further time that an epoch shows it."""


def positions_of(order: Tensor) -> Tensor:
    """The positions of samples in an order, without the marks of further showings."""
    return order % AGAIN


def marked(index: Tensor, order: Tensor) -> Tensor:
    """Rows ``index`` (B,) with the marks of ``order`` (B,), so that random numbers differ between showings."""
    return index + order // AGAIN * AGAIN
