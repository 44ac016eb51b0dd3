"""Distillation by singular value decomposition: the directions along which the channels of a feature map vary most.

Lee, Kim & Song, *Self-supervised Knowledge Distillation Using Singular Value Decomposition*, ECCV 2018.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.first_order import Gradients, first_order
from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, layer_pairs, shape
from kd_core.ranges import PositiveInt

MORE = 3
"""How many more vectors of the student than of the teacher are looked at for the nearest."""
ROUNDING = 16
"""Singular values are equal that differ by less than so many times the rounding error of the largest."""
WIDTH = 8
"""What the squared differences in the radial basis functions are divided by."""


@LOSSES("kdsvd")
@mean_over_samples
def kdsvd(student: list[Tensor], teacher: list[Tensor], *, k: PositiveInt = 1) -> Tensor:
    """How the principal directions of two consecutive feature maps relate to each other, channel by channel.

    student, teacher: lists of two feature maps (B, C, H, W) or more, each with the channels of its counterpart (a
    ``projector`` makes them so) -> scalar: the squared difference of exp(-(v_i - w_j)^2 / 8) for all channels i and j
    of consecutive maps, where v and w are their first ``k`` right singular vectors; the sum over channels, vectors and
    pairs of maps, the mean over B. The student's vectors are those nearest to the teacher's among its first
    ``k`` + 3, turned to the same side; both are weighted by the teacher's normalised singular values. On which side the
    teacher's vectors lie is the decomposition's choice: all on one for maps without negative numbers. KDError where
    there are fewer than two maps or shapes do not fit.
    Checked against HobbitLong/RepDistiller, whose code follows the authors' (sseung0703/KD_methods_with_TF).
    """
    pairs = [_aligned(number, *maps, k) for number, maps in enumerate(layer_pairs(student, teacher))]
    if len(pairs) < 2:
        raise KDError("kdsvd compares consecutive feature maps: it takes at least two", path="student")
    losses = [
        (_relations(ours, ours_before) - _relations(theirs, theirs_before)).square().sum() / len(ours)
        for (ours_before, theirs_before), (ours, theirs) in pairwise(pairs)
    ]
    return torch.stack(losses).sum()


def _aligned(number: int, student: Tensor, teacher: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Both maps' vectors (B, C, k), weighted."""
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        rule = "must be feature maps (B, C, H, W) with the same B and C"
        shapes = f"student/{number} {shape(student)} and teacher/{number} {shape(teacher)}"
        raise KDError(f"{shapes} {rule}", hint="a `projector` changes channels", path="student")
    ours, _ = _principal(student, k + MORE)
    theirs, values = _principal(teacher, k)
    cosines = ours.mT @ theirs
    nearest = cosines.detach().abs().argmax(1, keepdim=True)
    sides = cosines.detach().gather(1, nearest).sign()
    ours = ours.gather(2, nearest.expand(-1, ours.shape[1], -1)) * sides
    weights = F.normalize(values, dim=1)[:, None]
    return ours * weights, theirs * weights


def _principal(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> the first right singular vectors of (H W, C), (B, C, count), and their singular values."""
    rows = as_float32(features).flatten(2).mT
    vectors: Tensor = _RightVectors.apply(rows, count)
    return vectors, torch.linalg.vector_norm(rows @ vectors, dim=1)


def _relations(vectors: Tensor, before: Tensor) -> Tensor:
    """(B, C, k), (B, D, k) -> (B, C, D, k): radial basis functions of the differences."""
    return (-(vectors[:, :, None] - before[:, None]).square() / WIDTH).exp()


class _RightVectors(torch.autograd.Function):
    """The first right singular vectors, with a gradient that is 0 instead of infinite where singular values are equal.

    torch's own is NaN for any matrix with two singular values of 0: two channels that are never active.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> Tensor:
        """(B, N, C) -> (B, C, count), or as many as there are."""
        try:
            _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise KDError("kdsvd: a feature map is not finite, or its singular values cannot be found") from error
        ctx.save_for_backward(rows, values, vectors.mT)
        return vectors.mT[..., :count].contiguous()

    @staticmethod
    @first_order
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """By perturbation of rows^T rows: vector i turns to vector j by 1 / (value_i^2 - value_j^2)."""
        rows, values, vectors = ctx.saved_tensors
        gradient = gradients[0]
        count = gradient.shape[-1]
        own = values[:, None, :count]
        level = values[:, :1, None] * torch.finfo(values.dtype).eps * ROUNDING
        within = vectors.mT @ gradient
        turned = vectors @ (within * _inverse(own - values[..., None], own + values[..., None], level))
        beyond = (gradient - vectors @ within) * _inverse(own, own, level)
        change = (turned + beyond) @ vectors[..., :count].mT
        return rows @ (change + change.mT), None


def _inverse(gaps: Tensor, sums: Tensor, level: Tensor) -> Tensor:
    """1 / (gaps sums), and 0 for gaps that are not above ``level``."""
    equal = gaps.abs() <= level
    return torch.where(equal, 0.0, 1 / (gaps * sums).masked_fill(equal, 1.0))
