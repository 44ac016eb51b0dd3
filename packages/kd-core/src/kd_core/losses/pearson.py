"""Feature maps of detectors, compared by Pearson's correlation: their scale and offset do not matter."""

from __future__ import annotations

from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape

SMALL = 1e-6
"""What the authors add to a standard deviation."""


@LOSSES("pkd")
@over_batch
def pkd(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus Pearson's correlation of student and teacher, channel by channel.

    student, teacher (B, C, H, W) with the same B and C -> scalar: each channel has mean 0 and standard deviation 1 over
    all its positions in the batch, and half the mean squared difference is taken. A student's map of another size is
    first brought to the teacher's by bilinear interpolation. KDError where B or C differ or a channel has one position
    in the whole batch.
    Cao et al., *PKD: General Distillation Framework for Object Detectors via Pearson Correlation Coefficient*, NeurIPS
    2022 (arXiv 2207.02039); checked against open-mmlab/mmrazor.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        rule = "must be (B, C, H, W) with the same B and C"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    student, teacher = as_float32(student), as_float32(teacher)
    if student.shape != teacher.shape:
        student = F.interpolate(student, teacher.shape[2:], mode="bilinear")
    if teacher[:, 0].numel() < 2:
        raise KDError(f"pkd compares the positions of a channel, and teacher {shape(teacher)} has one", path="teacher")
    return F.mse_loss(_standardized(student), _standardized(teacher)) / 2


def _standardized(maps: Tensor) -> Tensor:
    """``maps`` (B, C, H, W) with mean 0 and standard deviation 1 for each channel; one that is constant becomes 0."""
    centred = maps - maps.mean((0, 2, 3), keepdim=True)
    deviation = vector_norm(centred, dim=(0, 2, 3), keepdim=True) / (maps[:, 0].numel() - 1) ** 0.5
    return centred / (deviation + SMALL)
