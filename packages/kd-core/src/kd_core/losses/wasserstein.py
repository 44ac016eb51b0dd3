"""Wasserstein distances between a student's and a teacher's outputs, and between their features.

Lv, Yang & Li, *Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation*, NeurIPS 2024
(arXiv 2412.08139); checked against JiamingLv/WKD.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import UNLABELLED, labelled, mean_over, mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, masked_alike, same_shape, shape
from kd_core.ranges import PositiveFloat, PositiveInt

EPSILON = 1e-8
"""What the authors add to costs and to divisors."""


def _labels(target: Tensor) -> Tensor | None:
    return labelled(target)


@LOSSES("wasserstein_logits")
@mean_over(_labels)
def wasserstein_logits(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    prototypes: Tensor,
    *,
    gamma: float = 600.0,
    temperature: PositiveFloat = 8.0,
    sharpness: PositiveFloat = 1.0,
    regularization: PositiveFloat = 0.05,
    iterations: PositiveInt = 10,
) -> Tensor:
    """WKD-L: the label's probability as the teacher has it, and what moving the other classes' probabilities costs.

    student, teacher (B, C) logits; target (B,) labels, -100 where there is none; prototypes (C, D), a vector of each
    class, such as the rows of the teacher's classifier -> scalar, the mean over the labelled samples: minus the
    teacher's probability of the label times the log of the student's, plus ``gamma`` times the entropic optimal
    transport between the other classes' probabilities, softened by ``temperature``. To move from one class to another
    costs 1 - exp(-``sharpness`` d), where d is one minus the cosine of their prototypes. Sinkhorn's algorithm runs
    ``iterations`` times with ``regularization``. KDError where shapes do not fit or there are fewer than three classes:
    of two, one is left beside the label.
    """
    student, teacher = masked_alike(*same_shape(student, teacher, dim=1))
    classes = student.shape[-1]
    if student.ndim != 2 or target.shape != student.shape[:1]:
        raise KDError(f"student {shape(student)} and target {shape(target)} must be (B, C) and (B,)", path="target")
    if classes < 3:
        raise KDError(f"student {shape(student)} has {classes} classes, of which fewer than two are not the label")
    if prototypes.ndim != 2 or len(prototypes) != classes:
        raise KDError(f"prototypes {shape(prototypes)} must be (C, D), a row for each of {classes} classes")
    counts = target != UNLABELLED
    label = target.long().where(counts, 0)[:, None]
    known = -teacher.softmax(1).gather(1, label) * student.log_softmax(1).gather(1, label)
    others = torch.zeros_like(student, dtype=torch.bool).scatter(1, label, True)
    ours, theirs = ((logits / temperature).masked_fill(others, -torch.inf).softmax(1) for logits in (student, teacher))
    costs = _costs(prototypes.to(student.dtype), sharpness)
    losses = known[:, 0] + gamma * _transport(ours, theirs, costs, ~others, regularization, iterations)
    return torch.where(counts, losses, 0.0).sum() / counts.sum().clamp(min=1)


def _costs(prototypes: Tensor, sharpness: float) -> Tensor:
    """(C, D) -> (C, C): what moving probability from one class to another costs."""
    rows = F.normalize(prototypes)
    return (1 - (-sharpness * (1 - rows @ rows.mT)).exp()).relu() + EPSILON


def _transport(ours: Tensor, theirs: Tensor, costs: Tensor, present: Tensor, reg: float, iterations: int) -> Tensor:
    """Sinkhorn's algorithm: (B, C) distributions, 0 where not ``present`` -> (B,) costs of the entropic plan.

    One kernel serves all samples: a class that is not present sends and receives nothing.
    """
    kernel = (-costs / reg).exp()
    ours_scale = present.to(ours.dtype) / (present.shape[1] - 1)
    theirs_scale = ours_scale
    for _ in range(iterations):
        theirs_scale = theirs / (ours_scale @ kernel + EPSILON)
        ours_scale = ours / (theirs_scale @ kernel.mT + EPSILON)
    return ((ours_scale @ (kernel * costs)) * theirs_scale).sum(1)


@LOSSES("wasserstein_features")
@mean_over_samples
def wasserstein_features(
    student: Tensor,
    teacher: Tensor,
    *,
    mean_weight: float = 4.0,
    grid: PositiveInt = 1,
    epsilon: PositiveFloat = 1e-5,
) -> Tensor:
    """WKD-F: squared Wasserstein distance of two Gaussians, a mean and a standard deviation for each channel.

    student, teacher (B, C, H, W) with the same B and C (a ``projector`` makes them so) -> scalar: ``mean_weight`` times
    the squared difference of the channels' means, plus that of their standard deviations (the roots of the unbiased
    variances plus ``epsilon``), within each cell of a ``grid`` x ``grid``; the sum over C, the mean over cells and B.
    KDError where shapes do not fit or a cell has one position, and so no variance.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        rule = "must be feature maps (B, C, H, W) with the same B and C"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    ours, theirs = (_moments(as_float32(features), grid, epsilon) for features in (student, teacher))
    apart = [(mine - other).square().sum((1, 2)).mean() / grid**2 for mine, other in zip(ours, theirs, strict=True)]
    return mean_weight * apart[0] + apart[1]


def _moments(features: Tensor, grid: int, epsilon: float) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> means and standard deviations (B, C, grid x grid)."""
    cells = [
        features[..., top:bottom, left:right].flatten(2)
        for top, bottom in _cuts(features.shape[2], grid)
        for left, right in _cuts(features.shape[3], grid)
    ]
    if min(cell.shape[2] for cell in cells) < 2:
        raise KDError(f"features {shape(features)} have no variance in the cells of a {grid} x {grid} grid")
    variances, means = zip(*(torch.var_mean(cell, dim=2) for cell in cells), strict=True)
    return torch.stack(means, 2), (torch.stack(variances, 2) + epsilon).sqrt()


def _cuts(length: int, cells: int) -> Iterator[tuple[int, int]]:
    """The first and the last position of each cell, as adaptive pooling has them."""
    for cell in range(cells):
        yield cell * length // cells, -(-(cell + 1) * length // cells)
