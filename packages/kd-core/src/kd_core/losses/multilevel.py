"""Multi-level logit distillation: predictions at several temperatures, and how samples and classes are related."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.logits import kd
from kd_core.losses.reduction import mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import masked_alike, same_shape, shape

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
"""Those of the authors."""


@LOSSES("mlkd_instance")
@mean_over_samples
def mlkd_instance(
    student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES, standardize: bool = False
) -> Tensor:
    """MLKD's instance level: the sum of ``kd`` at several temperatures.

    student, teacher (B, C) logits -> scalar, the mean over B. ``standardize`` as in ``kd``. KDError where shapes do not
    fit, there is one class, or there is no temperature or one that is not above 0.
    Jin, Wang & Lin, *Multi-Level Logit Distillation*, CVPR 2023; checked against
    Jin-Ying/Multi-Level-Logit-Distillation.
    """
    _two_dimensional(student, teacher)
    levels = [kd(student, teacher, temperature=t, standardize=standardize) for t in _positive(temperatures)]
    return torch.stack(levels).sum()


@LOSSES("mlkd_batch")
@over_batch
def mlkd_batch(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    """MLKD's batch level: squared difference of how alike the predictions for each two samples are.

    student, teacher (B, C) logits -> scalar: for the softened outputs P the sum of the squared differences of P P^T,
    divided by B, the sum over the temperatures. KDError where shapes do not fit, or there is no temperature or one that
    is not above 0. Jin, Wang & Lin, CVPR 2023; checked against Jin-Ying/Multi-Level-Logit-Distillation.
    """
    rows = _two_dimensional(student, teacher)
    probabilities = [[(each / t).softmax(1) for each in rows] for t in _positive(temperatures)]
    apart = [(ours @ ours.T - theirs @ theirs.T).square().sum() for ours, theirs in probabilities]
    return torch.stack(apart).sum() / len(student)


@LOSSES("mlkd_class")
@over_batch
def mlkd_class(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    """MLKD's class level: squared difference of how alike each two classes are predicted over the batch.

    student, teacher (B, C) logits -> scalar: for the softened outputs P the sum of the squared differences of P^T P,
    divided by C, the sum over the temperatures. KDError where shapes do not fit, or there is no temperature or one that
    is not above 0. Jin, Wang & Lin, CVPR 2023; checked against Jin-Ying/Multi-Level-Logit-Distillation.
    """
    rows = _two_dimensional(student, teacher)
    probabilities = [[(each / t).softmax(1) for each in rows] for t in _positive(temperatures)]
    apart = [(ours.T @ ours - theirs.T @ theirs).square().sum() for ours, theirs in probabilities]
    return torch.stack(apart).sum() / student.shape[1]


def _two_dimensional(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = same_shape(student, teacher, dim=1)
    if student.ndim != 2:
        raise KDError(f"student {shape(student)} must be logits (B, C)", path="student")
    return masked_alike(student, teacher)


def _positive(temperatures: Sequence[float]) -> Sequence[float]:
    if not temperatures or min(temperatures) <= 0:
        raise KDError(f"temperatures must be numbers above 0, not {list(temperatures)}", path="temperatures")
    return temperatures
