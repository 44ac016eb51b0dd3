"""Inter-channel correlation: how alike the channels of a sample's feature map are, a matrix of C x C.

Liu et al., *Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation*, ICCV 2021; checked
against ADLab-AutoDrive/ICKD. Height and width may differ between student and teacher.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape


@LOSSES("ickd")
@mean_over_samples
def ickd(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the C x C matrices of inner products between channels, each row normalised.

    student, teacher (B, C, H, W) or (B, C, ...), C equal (an adapter ``channel_embedding`` makes it so) -> scalar:
    divided by B and C, as in the authors' code for CIFAR-100. KDError where B or C differ.
    """
    student, teacher = _correlations(student, teacher)
    return (student - teacher).square().sum() / (student.shape[0] * student.shape[1])


@LOSSES("ickd_imagenet")
@over_batch
def ickd_imagenet(student: Tensor, teacher: Tensor) -> Tensor:
    """``ickd`` divided by B once more, as in the authors' code for ImageNet and in torchdistill.

    student, teacher (B, C, H, W) or (B, C, ...), C equal -> scalar, divided by B squared and C: it shrinks as the batch
    grows, and the published weights go with the published batch. KDError where B or C differ.
    """
    return ickd(student, teacher) / len(student)


def _correlations(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if min(student.ndim, teacher.ndim) < 3 or student.shape[:2] != teacher.shape[:2]:
        raise KDError(
            f"student {shape(student)} and teacher {shape(teacher)} must be (B, C, H, W) with the same B and C",
            hint="an adapter `channel_embedding` brings the student to the teacher's channels",
            path="student",
        )
    return _correlation(student), _correlation(teacher)


def _correlation(features: Tensor) -> Tensor:
    """(B, C, ...) -> (B, C, C), each row of unit length."""
    rows = as_float32(features).flatten(2)
    return F.normalize(rows @ rows.mT, dim=2)
