"""Losses that learn how sure the student can be of what it predicts of the teacher: Gaussian log-likelihoods."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.device.first_order import Gradients, first_order
from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, layer_pairs, same_shape, shape
from kd_core.ranges import PositiveFloat, PositiveInt

EPSILON = 1e-5
"""The least variance."""
HIGHEST = 80.0
"""A log variance beyond which the exponential would leave float32: the squared difference counts 0 there."""


@LOSSES("pad_l2")
@mean_over_samples
def pad_l2(student: Tensor, teacher: Tensor, log_variance: Tensor, *, eps: PositiveFloat = 1e-6) -> Tensor:
    """Prime-aware distillation: squared difference, each divided by a variance that the student predicts with it.

    student, teacher, log_variance (B, ...) of one shape (the last from a ``projector`` with ``norm`` on the student's
    features) -> scalar, the mean over all elements of (t - s)^2 / (``eps`` + exp(log_variance)) + log_variance. KDError
    where the shapes differ.
    Zhang et al., *Prime-Aware Adaptive Distillation*, ECCV 2020, eq. 5 (arXiv 2008.01458), whose authors published no
    code; checked against yoshitomo-matsubara/torchdistill (PADL2Loss).
    """
    student, teacher = same_shape(student, teacher)
    student, log_variance = same_shape(student, log_variance, other="log_variance")
    loss: Tensor = _PrimeAware.apply(student, teacher, log_variance, eps)
    return loss


class _PrimeAware(torch.autograd.Function):
    """``pad_l2`` of three tensors of one shape, and its gradients from what it has computed."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, log_variance: Tensor, eps: float) -> Tensor:
        apart = student - teacher
        variance = log_variance.clamp_max(HIGHEST).exp_()
        weighted = apart / (variance + eps)
        ctx.save_for_backward(weighted, variance)
        return apart.mul_(weighted).add_(log_variance).mean()

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Twice the weighted difference, and 1 less its square times the variance."""
        weighted, variance = ctx.saved_tensors
        gradient = gradient / weighted.numel()
        student = weighted * (2 * gradient)
        teacher = -student if ctx.needs_input_grad[1] else None
        return student, teacher, (weighted.square() * variance).sub_(1).mul_(-gradient), None


class _Layer(nn.Module):
    """A regressor of the teacher's channels, and a variance for each of them."""

    def __init__(self, channels: int, width: int, out: int, variance: float) -> None:
        super().__init__()
        self.variance = nn.Parameter(torch.full((out,), math.log(math.expm1(variance - EPSILON))))
        self.regressor = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False),
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
        student, teacher = (
            maps if maps.shape[2:] == size else F.adaptive_avg_pool2d(maps, size)
            for maps in (as_float32(student), as_float32(teacher))
        )
        variance = (F.softplus(self.variance) + EPSILON).view(1, -1, 1, 1)
        loss: Tensor = ((self.regressor(student) - teacher).square() / variance + variance.log()).mean() / 2
        return loss


@LOSSES("vid")
@mean_over_samples
class VID(nn.Module):
    """Variational information distillation: minus the log-likelihood of the teacher's features, given the student's.

    student (B, Cs, H, W), teacher (B, Ct, h, w), or lists of as many -> scalar: of Gaussians whose means a regressor
    of three 1x1 convolutions with ReLU between makes of the student's features, ``width`` channels wide within (the
    teacher's Ct where not given), and whose variances, one a channel of the teacher, start at ``initial_variance`` and
    are trained; without the constant; the mean over all elements, summed over the lists. Where sizes differ the larger
    map is average-pooled to the smaller. KDError where B or the numbers of feature maps differ.
    Ahn et al., CVPR 2019, eq. 6 (arXiv 1904.05835); checked against HobbitLong/RepDistiller, which has it from the
    author's code, published no more.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    @classmethod
    def from_inputs(
        cls,
        inputs: Mapping[str, Tensor | list[Tensor]],
        *,
        initial_variance: Annotated[float, Gt(EPSILON)] = 5.0,
        width: PositiveInt | None = None,
    ) -> VID:
        """Build it for the channels of ``inputs``."""
        channels = [(student.shape[1], teacher.shape[1]) for student, teacher in _maps(**inputs)]
        return cls([_Layer(ours, width or theirs, theirs, initial_variance) for ours, theirs in channels])

    def forward(self, student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> Tensor:
        pairs = _maps(student, teacher)
        losses = [layer(*pair) for layer, pair in zip(self.layers, pairs, strict=True)]
        return sum(losses[1:], start=losses[0])


def _maps(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The pairs of feature maps that are compared."""
    pairs = layer_pairs(student, teacher)
    for ours, theirs in pairs:
        if ours.ndim != 4 or theirs.ndim != 4 or len(ours) != len(theirs):
            raise KDError(
                f"student {shape(ours)} and teacher {shape(theirs)} must be (B, C, H, W) with the same B",
                path="student",
            )
    return pairs
