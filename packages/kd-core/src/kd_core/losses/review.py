"""Knowledge review: features compared at several resolutions."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_shape

POOLED = (4, 2, 1)
"""Heights and widths to which feature maps are pooled; each counts half as much as the one before."""


@LOSSES("hierarchical_context")
@mean_over_samples
def hierarchical_context(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> Tensor:
    """Mean squared difference of feature maps as they are and pooled to 4x4, 2x2 and 1x1, weighted 1, 1/2, 1/4, 1/8.

    student, teacher: feature maps (B, C, H, W), of one shape where they are compared, or lists of as many -> scalar,
    the weighted mean of the mean squared differences, summed over the lists. What is no higher than a pooled size
    is not pooled to it, whatever its width. KDError where shapes or the numbers of feature maps differ.
    Chen et al., CVPR 2021, section 3.3 (arXiv 2104.09044); checked against dvlab-research/ReviewKD.
    """
    students, teachers = ([tensor] if isinstance(tensor, Tensor) else tensor for tensor in (student, teacher))
    if len(students) != len(teachers):
        raise KDError(
            f"student has {len(students)} feature maps and teacher {len(teachers)}: they are compared one to one",
            path="student",
        )
    levels = [_level(*pair) for pair in zip(students, teachers, strict=True)]
    return sum(levels[1:], start=levels[0])


def _level(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher, dim=3)
    apart = student - teacher
    loss, weight, total = apart.square().mean(), 1.0, 1.0
    for size in POOLED:
        if size < student.shape[2]:  # the height alone decides, as published
            weight /= 2
            total += weight
            loss = loss + weight * F.adaptive_avg_pool2d(apart, size).square().mean()
    return loss / total
