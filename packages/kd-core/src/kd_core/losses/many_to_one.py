"""NORM: a student's expanded features, of which each part is brought near the teacher's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape


@LOSSES("many_to_one")
@mean_over_samples
def many_to_one(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over the N parts of the student's channels of the mean squared difference from the teacher's features.

    student (B, N C, ...), teacher (B, C, ...) -> scalar. The larger one of two feature maps (B, C, H, W) is max-pooled
    to the other's height and width, as a whole number of times that goes into its own. KDError where shapes do not fit.
    Liu et al., NORM, ICLR 2023, eq. 4 (openreview CRNwGauQpb6); checked against OSVAI/NORM.
    """
    given = f"student {shape(student)} does not fit teacher {shape(teacher)}"
    student, teacher = as_float32(student), as_float32(teacher)
    if student.ndim == teacher.ndim == 4:
        student, teacher = _pooled(student, teacher), _pooled(teacher, student)
    channels = teacher.shape[1] if teacher.ndim > 1 else 0
    fits = student.shape[:1] + student.shape[2:] == teacher.shape[:1] + teacher.shape[2:]
    if not fits or not channels or student.ndim < 2 or student.shape[1] % channels:
        raise KDError(
            f"{given}: student has N times teacher's channels, and is like it in all else",
            path="student",
            hint="the module `kd_core.adapters.FeatureExpansion` makes such features",
        )
    parts = student.unflatten(1, (-1, channels))
    return (parts - teacher.unsqueeze(1)).square().mean() * parts.shape[1]


def _pooled(features: Tensor, other: Tensor) -> Tensor:
    """``features`` (B, C, H, W), max-pooled where they are a multiple of ``other``'s height."""
    size = features.shape[2] // max(other.shape[2], 1)
    return F.max_pool2d(features, size, size) if size > 1 else features
