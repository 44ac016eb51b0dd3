"""CrossKD's losses on what a dense detector says of its anchors: of the teacher's head on the student's features.

Wang et al., *CrossKD: Cross-Head Knowledge Distillation for Object Detection*, CVPR 2024 (arXiv 2306.11369); checked
against jbwang1997/CrossKD.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, hidden, masked_alike, same_shape, shape
from kd_core.ranges import NormOrder

SMALL = 1e-6
"""The least area of a box, in squared pixels."""


def positives(positive: Tensor, mask: Tensor | None = None) -> Tensor:
    """The sum of ``positive`` where it is unmasked, of an image at least 1: what CrossKD's losses are means over."""
    objects = as_float32(positive) if mask is None else as_float32(positive).masked_fill(mask == 0, 0.0)
    return objects.sum(1).clamp(min=1).sum()


@LOSSES("crosskd_classes")
@mean_over(positives)
def crosskd_classes(
    student: Tensor, teacher: Tensor, positive: Tensor, mask: Tensor | None = None, *, beta: NormOrder = 1.0
) -> Tensor:
    """CrossKD's loss of classes: cross-entropy of each class's probability, the larger the gap the more it counts.

    student (what the teacher's head makes of the student's features), teacher (B, A, K) logits of each class by
    itself; positive (B, A), 1 for the anchors of objects, or a weight; mask (B, A), zero for the anchors that do not
    count -> scalar: the binary cross-entropies, each times the difference of the probabilities to the power ``beta``,
    their sum over that of ``positive``, of an image at least 1. KDError where shapes do not fit or beta is below 1.
    The quality focal loss of CrossKD.
    """
    student, teacher = same_shape(student, teacher, dim=2)
    counts = _rows(student, positive=positive, mask=mask)
    student, teacher = masked_alike(*hidden(counts, student, teacher, dim=-1))
    target = teacher.sigmoid()
    entropies = F.binary_cross_entropy_with_logits(student, target, reduction="none")
    weighed = entropies * (student.sigmoid() - target).abs().pow(beta)
    return weighed.masked_fill(~counts[..., None], 0.0).sum() / positives(positive, mask).to(student.dtype)


@LOSSES("crosskd_boxes")
@mean_over(positives)
def crosskd_boxes(
    student: Tensor,
    teacher: Tensor,
    logits: Tensor,
    positive: Tensor,
    mask: Tensor | None = None,
    *,
    distance: Literal["giou", "log_iou"] = "giou",
) -> Tensor:
    """CrossKD's loss of boxes: one minus the generalised IoU, weighted by how sure the teacher is of an object.

    student (what the teacher's head makes of the student's features), teacher (B, A, 4), x1 y1 x2 y2 in pixels; logits
    (B, A, K), the teacher's, whose most probable class is the weight; positive and mask as in ``crosskd_classes``
    -> scalar: the sum over that of ``positive``, of an image at least 1. With ``distance: log_iou`` it is minus the
    logarithm of the IoU (Yu et al., *UnitBox*, arXiv 1608.01471), of 1e-6 at least. KDError where shapes do not fit.
    Rezatofighi et al., *Generalized Intersection over Union*, CVPR 2019 (arXiv 1902.09630).
    """
    student, teacher = same_shape(student, teacher, dim=2)
    counts = _rows(student, positive=positive, mask=mask)
    if logits.shape[:-1] != student.shape[:-1] or student.shape[2] != 4:
        rule = f"boxes are (B, A, 4), logits (B, A, K), and student is {shape(student)}"
        raise KDError(f"logits {shape(logits)} does not fit: {rule}", path="logits")
    student, teacher, logits = hidden(counts, student, teacher, as_float32(logits), dim=-1)
    if distance == "giou":
        away = 1 - generalised_iou(student, teacher)
    else:
        away = -overlap_of_pairs(student, teacher).clamp(min=SMALL).log()
    weighed = logits.amax(2).sigmoid() * away
    return weighed.masked_fill(~counts, 0.0).sum() / positives(positive, mask).to(student.dtype)


def _rows(student: Tensor, **masks: Tensor | None) -> Tensor:
    """(B, A): which anchors count. KDError where one of the masks is not (B, A)."""
    for name, mask in masks.items():
        if mask is not None and mask.shape != student.shape[:-1]:
            rule = f"it has one number an anchor of student {shape(student)}"
            raise KDError(f"{name} {shape(mask)} does not fit: {rule}", path=name)
    mask = masks["mask"]
    return torch.ones(student.shape[:2], dtype=torch.bool, device=student.device) if mask is None else mask != 0


def generalised_iou(first: Tensor, second: Tensor) -> Tensor:
    """Of each two boxes (..., 4): from -1, far apart, to 1, equal."""
    overlap, union = _overlap_and_union(first, second)
    around = _area(torch.minimum(first[..., :2], second[..., :2]), torch.maximum(first[..., 2:], second[..., 2:]))
    enclosing = around.clamp(min=SMALL)
    return overlap / union - (enclosing - union) / enclosing


def overlap_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """The IoU of each two boxes (..., 4)."""
    overlap, union = _overlap_and_union(first, second)
    return overlap / union


def _overlap_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The areas (...,) that each two boxes (..., 4) share and cover."""
    overlap = _area(torch.maximum(first[..., :2], second[..., :2]), torch.minimum(first[..., 2:], second[..., 2:]))
    areas = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:])
    return overlap, (areas - overlap).clamp(min=SMALL)


def _area(low: Tensor, high: Tensor) -> Tensor:
    """Of boxes by their corners (..., 2), 0 where one side is below 0."""
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]
