"""Scale-decoupled distillation: logits of the regions of an image, and of the whole, beside one another."""

from __future__ import annotations

from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.decoupled import SINGLE, decoupled
from kd_core.losses.labelled import Rows, enough_classes, labelled_rows
from kd_core.losses.reduction import labelled, mean_over
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import divergence, same_shape, shape
from kd_core.ranges import PositiveFloat


@LOSSES("sdd_kd")
@mean_over(labelled)
def sdd_kd(student: Tensor, teacher: Tensor, target: Tensor, *, temperature: PositiveFloat = 4.0) -> Tensor:
    """``kd`` of each region's logits, twice where the teacher is right about one of region and image alone.

    student, teacher (B, R, C) logits of R regions, the whole image first; target (B,) labels, -100 for unlabelled
    -> scalar, the mean over the regions and over what is labelled, 0 where nothing is. KDError where shapes do not fit,
    there is one class, or the temperature is not above 0.
    Wei et al., *Scaled Decoupled Distillation*, CVPR 2024 (arXiv 2403.13512); checked against
    shicaiwei123/SDD-CVPR2024.
    """
    rows, weight = _regions("sdd_kd", student, teacher, target, 2, "one class has always the probability 1")
    log_student, log_teacher = ((each / temperature).log_softmax(1) for each in rows[:2])
    return rows.mean(weight * divergence(log_teacher, log_student)) * temperature**2


@LOSSES("sdd_dkd")
@mean_over(labelled)
def sdd_dkd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: PositiveFloat = 4.0,
) -> Tensor:
    """``dkd`` of each region's logits, twice where the teacher is right about one of region and image alone.

    student, teacher (B, R, C) logits of R regions, the whole image first; target (B,) labels, -100 for unlabelled
    -> scalar, the mean over the regions and over what is labelled, 0 where nothing is. KDError where shapes do not fit,
    a label is not below C, there are less than three classes, or the temperature is not above 0.
    Wei et al., CVPR 2024 (arXiv 2403.13512); checked against shicaiwei123/SDD-CVPR2024.
    """
    rows, weight = _regions("sdd_dkd", student, teacher, target, 3, SINGLE)
    return decoupled(rows, alpha, beta, temperature, weight)


def _regions(
    name: str, student: Tensor, teacher: Tensor, target: Tensor, least: int, reason: str
) -> tuple[Rows, Tensor]:
    """The rows of all regions, sample by sample, and (N,) how much each counts."""
    student, teacher = same_shape(student, teacher, dim=-1)
    if student.ndim != 3:
        raise KDError(f"student {shape(student)} must be logits (B, R, C) of regions", path="student")
    if target.shape != student.shape[:1]:
        raise KDError(
            f"target {shape(target)} does not fit student {shape(student)}: it has one label a sample", path="target"
        )
    size = student.shape[:2]
    student, teacher = student.movedim(-1, 1), teacher.movedim(-1, 1)
    enough_classes(name, student, least, reason)
    rows = labelled_rows(student, teacher, target[:, None].expand(size))
    right = (rows.teacher.argmax(1) == rows.target).view(size)
    return rows, 1.0 + (right != right[:, :1]).flatten()
