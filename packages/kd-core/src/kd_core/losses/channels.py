"""Inter-channel correlation: how alike the channels of a sample's feature map are, a matrix of C x C.

Liu et al., *Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation*, ICCV 2021; checked
against ADLab-AutoDrive/ICKD. Height and width may differ between student and teacher.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.linalg import vecdot, vector_norm

from kd_core.device.first_order import Gradients, first_order
from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape

SMALL = 3
"""With so many times fewer positions than channels no C x C matrix is made: it costs more than what replaces it."""


@LOSSES("ickd")
@mean_over_samples
def ickd(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the C x C matrices of inner products between channels, each row normalised.

    student, teacher (B, C, H, W) or (B, C, ...), C equal (an adapter ``channel_embedding`` makes it so) -> scalar:
    divided by B and C, as in the authors' code for CIFAR-100. The row of a channel of zeros stays zeros and has no
    gradient (1e12 times another's in the reference). KDError where B or C differ.
    """
    return _distances(student, teacher).mean()


@LOSSES("ickd_imagenet")
@over_batch
def ickd_imagenet(student: Tensor, teacher: Tensor) -> Tensor:
    """``ickd`` divided by B once more, as in the authors' code for ImageNet and in torchdistill.

    student, teacher (B, C, H, W) or (B, C, ...), C equal -> scalar, divided by B squared and C: it shrinks as the batch
    grows, and the published weights go with the published batch. KDError where B or C differ.
    """
    return _distances(student, teacher).mean() / len(student)


def _distances(student: Tensor, teacher: Tensor) -> Tensor:
    """(B, C): the squared distance of each row; KDError where the shapes do not fit."""
    if min(student.ndim, teacher.ndim) < 3 or student.shape[:2] != teacher.shape[:2]:
        raise KDError(
            f"student {shape(student)} and teacher {shape(teacher)} must be (B, C, H, W) with the same B and C",
            hint="an adapter `channel_embedding` brings the student to the teacher's channels",
            path="student",
        )
    rows = as_float32(student).flatten(2), as_float32(teacher).flatten(2)
    if SMALL * max(rows[0].shape[2], rows[1].shape[2]) < student.shape[1]:
        return _of_few(*rows)
    distances: Tensor = _RowDistances.apply(*rows)
    return distances


def _of_few(student: Tensor, teacher: Tensor) -> Tensor:
    """What :class:`_RowDistances` gives, by matrices of positions: (F F^T)(F F^T)^T = F (F^T F) F^T."""
    ours, both, theirs = (
        vecdot(student @ (student.mT @ student), student),
        vecdot(student @ (student.mT @ teacher), teacher),
        vecdot(teacher @ (teacher.mT @ teacher), teacher),
    )
    first, second = (squares.masked_fill(squares == 0, torch.inf).sqrt() for squares in (ours, theirs))
    # of unit rows |a - b|^2 = 2 - 2 a b; of a row of zeros there is no length to count
    return (ours > 0).to(both.dtype) + (theirs > 0).to(both.dtype) - 2 * both / first / second


class _RowDistances(torch.autograd.Function):
    """F (B, C, N) of student and teacher -> (B, C): squared distances of the normalised rows of G = F F^T.

    The backward pass knows that G is symmetric, which saves half of its products of matrices.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """Of unit rows |a - b|^2 = 2 - 2 a b; of a row of zeros there is no length to count."""
        ours, theirs = student @ student.mT, teacher @ teacher.mT
        lengths = vector_norm(ours, dim=2), vector_norm(theirs, dim=2)
        first, second = (1 / length.masked_fill(length == 0, torch.inf) for length in lengths)
        cosines = torch.einsum("bij,bij->bi", ours, theirs).mul_(first).mul_(second)
        ctx.save_for_backward(student, teacher, ours, theirs, first, second, cosines)
        return torch.sgn(first).add_(torch.sgn(second)).sub_(cosines, alpha=2)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """The gradients of F, of the student's and of the teacher's where it wants one."""
        student, teacher, ours, theirs, first, second, cosines = ctx.saved_tensors
        by_other = gradient * first * second * -2
        by_cosine = gradient * cosines * 2
        wanted = ctx.needs_input_grad
        return (
            _through(student, ours, by_cosine * first.square(), theirs, by_other) if wanted[0] else None,
            _through(teacher, theirs, by_cosine * second.square(), ours, by_other) if wanted[1] else None,
        )


def _through(rows: Tensor, gram: Tensor, by_own: Tensor, another: Tensor, by_both: Tensor) -> Tensor:
    """The gradient of F, of a gradient of F F^T that is a sum of two matrices, each with its rows weighted."""
    gradient = (gram * by_own[..., None]).addcmul_(another, by_both[..., None])
    return (gradient + gradient.mT) @ rows
