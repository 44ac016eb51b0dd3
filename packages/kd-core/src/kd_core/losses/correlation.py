"""Losses that ask a student's probabilities to correlate with a teacher's, not to equal them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, hidden, same_shape, shape, valid_mask
from kd_core.ranges import PositiveFloat

EPSILON = 1e-8
"""What the authors add to the product of the lengths that they divide by."""
ALL = (0, 2)
"""The dimensions of samples and positions."""


@LOSSES("dist")
@over_batch
def dist(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: PositiveFloat = 1.0,
) -> Tensor:
    """One minus Pearson's correlation of the softened outputs, within each prediction and within each class.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without C, zero where a prediction (of a void
    pixel) is masked -> scalar: ``temperature`` squared times the sum of ``beta`` times the inter-class term (over
    the C probabilities of a prediction, the mean over predictions) and ``gamma`` times the intra-class term (over all
    predictions for a class, the mean over classes); 0 where nothing counts. KDError where shapes do not fit, there is
    one class, or the temperature is not above 0.
    Huang et al., DIST, NeurIPS 2022 (arXiv 2205.10536); checked against hunto/DIST_KD and
    hunto/image_classification_sota.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    counts = None if mask is None else valid_mask(mask, student, 1)
    if counts is not None:
        student, teacher = hidden(counts, student, teacher, dim=1)
    if student.shape[1] == 1:
        raise KDError(f"student {shape(student)} has one class, whose probability is always 1", path="student")
    soft = [(logits / temperature).softmax(1).reshape(*student.shape[:2], -1) for logits in (student, teacher)]
    inter = 1 - _cosine([probs - probs.mean(1, keepdim=True) for probs in soft], 1)
    if counts is None:
        intra = 1 - _cosine([probs - probs.mean(ALL, keepdim=True) for probs in soft], ALL)
        return (beta * inter.mean() + gamma * intra.mean()) * temperature**2
    counts = counts.reshape(len(student), 1, -1)
    total = counts.sum().clamp(min=1)
    means = [torch.where(counts, probs, 0.0).sum(ALL, keepdim=True) / total for probs in soft]
    centred = [torch.where(counts, probs - mean, 0.0) for probs, mean in zip(soft, means, strict=True)]
    intra = torch.where(counts.any(), 1 - _cosine(centred, ALL), 0.0)
    return (beta * torch.where(counts[:, 0], inter, 0.0).sum() / total + gamma * intra.mean()) * temperature**2


@LOSSES("dist_channel")
@mean_over_samples
def dist_channel(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST+'s channel relation: one minus Pearson's correlation of the channels at each position.

    student, teacher (B, C, ...) feature maps of one shape -> scalar, the mean over samples and positions. KDError where
    the shapes differ.
    Huang et al., DIST+, TPAMI 2025; checked against yoshitomo-matsubara/torchdistill, which adds the correlation itself
    in the place of one minus it, so that features unlike the teacher's are the minimum there.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    return (1 - _cosine([each - each.mean(1, keepdim=True) for each in (student, teacher)], 1)).mean()


@LOSSES("dist_spatial")
@over_batch
def dist_spatial(student: Tensor, teacher: Tensor) -> Tensor:
    """DIST+'s spatial relation: one minus Pearson's correlation, over the batch, of what each position adds up to.

    student (B, Cs, H, W), teacher (B, Ct, H, W) feature maps -> scalar, the mean over positions of the correlation of
    the sums over the channels. KDError where B, H or W differ.
    Huang et al., DIST+, TPAMI 2025; checked against yoshitomo-matsubara/torchdistill.
    """
    if student.ndim < 3 or student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        rule = "must be feature maps (B, C, H, W) with the same B, H and W"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    ours, theirs = (as_float32(each).sum(1).flatten(1) for each in (student, teacher))
    return 1 - F.cosine_similarity(ours - ours.mean(0), theirs - theirs.mean(0), dim=0, eps=EPSILON).mean()


def _cosine(pair: list[Tensor], dim: int | tuple[int, ...]) -> Tensor:
    first, second = pair
    return (first * second).sum(dim) / (vector_norm(first, dim=dim) * vector_norm(second, dim=dim) + EPSILON)
