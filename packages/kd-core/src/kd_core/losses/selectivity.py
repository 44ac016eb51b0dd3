"""Neuron selectivity transfer: the student's channels respond to the same places as the teacher's, whichever does."""

from __future__ import annotations

from torch import Tensor

from kd_core.losses.closed_form import unit
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import maps_of_one_size


@LOSSES("nst")
@mean_over_samples
def nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels' normalised maps, with the kernel (x y)^2.

    student (B, Cs, H, W), teacher (B, Ct, H, W) -> scalar, the mean over B; each kernel is averaged over its pairs of
    channels. Channels may differ; the larger maps are average-pooled to the size of the smaller, as in RepDistiller.
    KDError where B differs.
    Huang & Wang, *Like What You Like*, 2017, eq. 5 and 10 (arXiv 1707.01219); checked against
    TuSimple/neuron-selectivity-transfer, which leaves out the constant that the teacher alone gives, and
    HobbitLong/RepDistiller.
    """
    maps = (unit(features.flatten(2)) for features in maps_of_one_size(student, teacher))
    ours, theirs = maps
    return (_kernel(theirs, theirs) + _kernel(ours, ours) - 2 * _kernel(ours, theirs)).mean()


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """(B, C, N), (B, D, N) -> (B,): the mean over all pairs of channels."""
    return (first @ second.mT).square().mean((1, 2))
