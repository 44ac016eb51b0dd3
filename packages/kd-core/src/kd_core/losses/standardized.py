"""The simple recipe's loss: features, standardised over the batch, under a logarithm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.first_order import Gradients, first_order
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_rows, same_shape
from kd_core.ranges import NormOrder, PositiveFloat


@LOSSES("srd")
@over_batch
def srd(student: Tensor, teacher: Tensor, *, exponent: NormOrder = 4.0, eps: PositiveFloat = 1e-4) -> Tensor:
    """Logarithm of the summed powers of the differences, each feature standardised over the batch first.

    student, teacher (B, ...) of one shape, flattened: pooled features, the student's through a ``projector``
    -> scalar: the log of the sum over B and all features of |s - t| to ``exponent``; 0 for one sample. ``eps`` is added
    to each feature's variance. Equal inputs give the log of the smallest positive float, without a gradient (the
    reference minus infinity). KDError where the shapes differ.
    Miles & Mikolajczyk, *Understanding the Role of the Projector in Knowledge Distillation*, AAAI 2024 (arXiv
    2303.11098); checked against roymiles/Simple-Recipe-Distillation (its ImageNet code), which gives it the weight 2.
    """
    student, teacher = same_rows(*same_shape(student, teacher, dim=1))
    if len(student) == 1:
        return (student - teacher).sum() * 0.0
    if exponent != 4:
        ours, theirs = (F.batch_norm(each, None, None, training=True, eps=eps) for each in (student, teacher))
        return (ours - theirs).abs().pow(exponent).sum().clamp(min=torch.finfo(ours.dtype).tiny).log()
    loss: Tensor = _FourthPowers.apply(student, teacher, eps)
    return loss


class _FourthPowers(torch.autograd.Function):
    """``srd`` with the published exponent: (B, D) twice -> the logarithm of the sum of the fourth powers.

    The gradients are made with the value: all that they are made of is at hand then.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, eps: float) -> Tensor:
        ours, mean, inverse = _standardized(student, eps)
        theirs, other_mean, other_inverse = _standardized(teacher, eps)
        apart = ours.sub_(theirs)
        squares = apart.square()
        total = torch.linalg.vector_norm(squares).square_().clamp_min_(torch.finfo(squares.dtype).tiny)
        cubes = squares.mul_(apart).div_(total)
        wanted = ctx.needs_input_grad
        ctx.save_for_backward(
            _destandardized(cubes, student, mean, inverse, eps) if wanted[0] else None,
            _destandardized(cubes, teacher, other_mean, other_inverse, eps) if wanted[1] else None,
        )
        return total.log_()

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Four times the cubes over the sum, through the standardisation of each."""
        student, teacher = ctx.saved_tensors
        gradient = 4 * gradient
        return (
            None if student is None else student * gradient,
            None if teacher is None else teacher * -gradient,
            None,
        )


def _standardized(rows: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) with the mean 0 and the variance 1 over B, the mean and one over the standard deviation."""
    return torch.native_batch_norm(rows, None, None, None, None, True, 0.0, eps)


def _destandardized(gradient: Tensor, rows: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    """The gradient of ``rows``."""
    return torch.ops.aten.native_batch_norm_backward(
        gradient, rows, None, None, None, mean, inverse, True, eps, [True, False, False]
    )[0]
