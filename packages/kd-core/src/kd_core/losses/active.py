"""Losses on features of which only what is active counts."""

from __future__ import annotations

from torch import Tensor

from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_shape


@LOSSES("active_features")
@over_batch
def active_features(student: Tensor, teacher: Tensor) -> Tensor:
    """Be-your-own-teacher's hint: squared difference where the student's or the teacher's feature is above 0.

    student, teacher of one shape -> scalar, the sum over all elements, those of the batch too, as in the checked code:
    a ``weight`` belongs to a batch size. KDError where the shapes differ.
    Zhang et al., Be Your Own Teacher, ICCV 2019, eq. 4 (arXiv 1905.08094); checked against
    luanyunteng/pytorch-be-your-own-teacher, since its authors published another one, of their journal version.
    """
    student, teacher = same_shape(student, teacher)
    return (student - teacher).masked_fill((student <= 0) & (teacher <= 0), 0.0).square().sum()
