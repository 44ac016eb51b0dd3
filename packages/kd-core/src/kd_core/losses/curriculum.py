"""Curriculum temperature: a temperature that learns to make distillation harder."""

from __future__ import annotations

from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, divergences, masked_alike, same_shape, shape
from kd_core.ranges import PositiveFloat


@LOSSES("ctkd")
@mean_over_samples
def ctkd(
    student: Tensor,
    teacher: Tensor,
    score: Tensor,
    *,
    start: PositiveFloat = 1.0,
    width: PositiveFloat = 20.0,
    reversal: float = -1.0,
) -> Tensor:
    """``kd`` at a learned temperature, whose gradient is multiplied by ``reversal``: it learns to raise the loss.

    student, teacher (B, C) logits; score (1,), or (B,) or (B, 1), one a sample: the temperature is ``start`` plus
    ``width`` times its sigmoid -> scalar, the mean over B. KDError where shapes do not fit, there is one class, or
    ``start`` or ``width`` is not above 0.
    Li et al., *Curriculum Temperature for Knowledge Distillation*, AAAI 2023 (arXiv 2211.16231); checked against
    zhengli97/CTKD.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    if student.ndim != 2 or student.shape[1] == 1:
        raise KDError(f"student {shape(student)} must be logits (B, C) of two classes or more", path="student")
    if score.numel() not in (1, len(student)):
        rule = "it has one number, or one a sample"
        raise KDError(f"score {shape(score)} does not fit student {shape(student)}: {rule}", path="score")
    student, teacher = masked_alike(student, teacher)
    score = as_float32(score).reshape(-1, 1)
    score = score.detach() + reversal * (score - score.detach())
    temperature = start + width * score.sigmoid()
    log_student, log_teacher = ((each / temperature).log_softmax(1) for each in (student, teacher))
    return (divergences(log_teacher, log_student).sum(1, keepdim=True) * temperature.square()).mean()
