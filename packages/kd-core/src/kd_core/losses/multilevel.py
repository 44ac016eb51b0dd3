"""Multi-level logit distillation: predictions at several temperatures, and how samples and classes are related."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import divergence, masked_alike, same_shape, shape, standardized

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
    student, teacher = _two_dimensional(student, teacher, standardize=standardize)
    if student.shape[1] == 1:
        raise KDError(f"mlkd_instance of one class, {shape(student)}, is always 0", path="student")
    log_student, log_teacher = (_at(_positive(temperatures), each).log_softmax(2) for each in (student, teacher))
    levels = divergence(log_teacher, log_student, dim=2).mean(1)
    return torch.stack([t**2 * level for t, level in zip(temperatures, levels.unbind(), strict=True)]).sum()


@LOSSES("mlkd_batch")
@over_batch
def mlkd_batch(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    """MLKD's batch level: squared difference of how alike the predictions for each two samples are.

    student, teacher (B, C) logits -> scalar: for the softened outputs P the sum of the squared differences of P P^T,
    divided by B, the sum over the temperatures. KDError where shapes do not fit, or there is no temperature or one that
    is not above 0. Jin, Wang & Lin, CVPR 2023; checked against Jin-Ying/Multi-Level-Logit-Distillation.
    """
    probabilities = _probabilities(student, teacher, temperatures)
    apart = [F.mse_loss(ours @ ours.T, theirs @ theirs.T, reduction="sum") for ours, theirs in probabilities]
    return torch.stack(apart).sum() / len(student)


@LOSSES("mlkd_class")
@over_batch
def mlkd_class(student: Tensor, teacher: Tensor, *, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    """MLKD's class level: squared difference of how alike each two classes are predicted over the batch.

    student, teacher (B, C) logits -> scalar: for the softened outputs P the sum of the squared differences of P^T P,
    divided by C, the sum over the temperatures. KDError where shapes do not fit, or there is no temperature or one that
    is not above 0. Jin, Wang & Lin, CVPR 2023; checked against Jin-Ying/Multi-Level-Logit-Distillation.
    """
    probabilities = _probabilities(student, teacher, temperatures)
    apart = [F.mse_loss(ours.T @ ours, theirs.T @ theirs, reduction="sum") for ours, theirs in probabilities]
    return torch.stack(apart).sum() / student.shape[1]


def _probabilities(student: Tensor, teacher: Tensor, temperatures: Sequence[float]) -> list[list[Tensor]]:
    """The softened outputs of both models (B, C), for each temperature."""
    pair = _two_dimensional(student, teacher)
    return [[(each / temperature).softmax(1) for each in pair] for temperature in _positive(temperatures)]


def _two_dimensional(student: Tensor, teacher: Tensor, *, standardize: bool = False) -> tuple[Tensor, Tensor]:
    student, teacher = same_shape(student, teacher, dim=1)
    if student.ndim != 2:
        raise KDError(f"student {shape(student)} must be logits (B, C)", path="student")
    if standardize:
        student, teacher = standardized(student), standardized(teacher)
    return masked_alike(student, teacher)


def _at(temperatures: Sequence[float], logits: Tensor) -> Tensor:
    """(B, C) -> (K, B, C), over each of K temperatures."""
    return torch.stack([logits / temperature for temperature in temperatures])


def _positive(temperatures: Sequence[float]) -> Sequence[float]:
    if not temperatures or min(temperatures) <= 0:
        raise KDError(f"temperatures must be numbers above 0, not {list(temperatures)}", path="temperatures")
    return temperatures
