"""Divergences of a model's softened outputs from a mixture, a power or a family of them: skewed KL, alpha-beta, TTM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd_core.losses.reduction import mean_over, unmasked
from kd_core.losses.registry import LOSSES
from kd_core.losses.softened import comparable, log_softened, mean_of
from kd_core.losses.tensors import LOW, divergence, divergences
from kd_core.ranges import OpenFraction, PositiveFloat

ABSENT = -1e5
"""A log-probability below it is that of a class that a model masks."""


@LOSSES("skewed_kl")
@mean_over(unmasked)
def skewed_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    skew: OpenFraction = 0.1,
    temperature: PositiveFloat = 1.0,
    dim: int = 1,
) -> Tensor:
    """Cross-entropy of the teacher's softened outputs with their mixture with the student's.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: -p log(s p + (1 - s) q) for the teacher's p, the student's q and s the ``skew``, the sum over the
    classes in dimension ``dim``, the mean over all other unmasked elements, 0 where all are masked. As in the authors'
    code it is the skewed KL divergence plus the teacher's entropy, which no student changes. Not multiplied by the
    squared temperature. KDError where shapes do not fit, there is one class, or a hyperparameter is out of its range.
    Ko et al., DistiLLM, ICML 2024 (arXiv 2402.03898); checked against jongwooko/distillm.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, temperature, dim)
    mixture = torch.logaddexp(log_teacher + math.log(skew), log_student + math.log1p(-skew))
    return mean_of(-(log_teacher.exp() * mixture).sum(dim), counts)


@LOSSES("skewed_reverse_kl")
@mean_over(unmasked)
def skewed_reverse_kl(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    skew: OpenFraction = 0.1,
    temperature: PositiveFloat = 1.0,
    dim: int = 1,
) -> Tensor:
    """KL divergence of the teacher's and the student's mixture from the student's softened outputs.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: KL(q || (1 - s) p + s q) for the teacher's p, the student's q and s the ``skew``, the sum over the
    classes in dimension ``dim``, the mean over all other unmasked elements, 0 where all are masked. Not multiplied by
    the squared temperature. KDError where shapes do not fit, there is one class, or a hyperparameter is out of its
    range. Ko et al., DistiLLM, ICML 2024 (arXiv 2402.03898); checked against jongwooko/distillm.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, temperature, dim)
    mixture = torch.logaddexp(log_student + math.log(skew), log_teacher + math.log1p(-skew))
    return mean_of(divergences(log_student, mixture).sum(dim), counts)


@LOSSES("ab_divergence")
@mean_over(unmasked)
def ab_divergence(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    temperature: PositiveFloat = 1.0,
    dim: int = 1,
) -> Tensor:
    """Alpha-beta divergence of the student's softened outputs from the teacher's: between ``kd`` and ``reverse_kl``.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: the sum over the classes in dimension ``dim`` that neither model masks, the mean over all other
    unmasked elements, 0 where all are masked. ``alpha`` 1 with ``beta`` 0 is KL(teacher || student), 0 with 1 the
    reverse; where one of them, or their sum, is 0, the formula is the authors'. Not multiplied by the squared
    temperature. KDError where shapes do not fit, there is one class, or the temperature is not above 0.
    Wang et al., ABKD, ICML 2025 (arXiv 2505.04560); checked against ghwang-s/abkd.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, temperature, dim)
    absent = torch.minimum(log_student, log_teacher) < ABSENT
    log_q, log_p = (each.masked_fill(absent, 0.0) for each in (log_student, log_teacher))
    return mean_of(_alpha_beta(log_p, log_q, alpha, beta).masked_fill(absent, 0.0).sum(dim), counts)


def _alpha_beta(log_p: Tensor, log_q: Tensor, alpha: float, beta: float) -> Tensor:
    """The divergence of p from q, class by class."""
    log_ratio, total = log_q - log_p, alpha + beta
    if alpha == 0 and beta == 0:
        return log_ratio.square() / 2
    if alpha == 0:
        powered = (beta * log_q).exp()
        return powered * log_ratio + ((beta * log_p).exp() - powered) / beta
    if beta == 0:
        powered = (alpha * log_p).exp()
        return ((alpha * log_q).exp() - powered) / alpha - powered * log_ratio
    if total == 0:
        return log_ratio + ((-alpha * log_ratio).exp() - 1) / alpha
    mixed = (alpha * log_p + beta * log_q).exp()
    return ((alpha * (total * log_p).exp() + beta * (total * log_q).exp()) / total - mixed) / (alpha * beta)


@LOSSES("ttm")
@mean_over(unmasked)
def ttm(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, power: PositiveFloat = 0.1, dim: int = 1
) -> Tensor:
    """Transformed teacher matching: KL divergence of the student's outputs from a power of the teacher's, normalised.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: the sum over the classes in dimension ``dim``, the mean over all other unmasked elements, 0 where
    all are masked. A ``power`` is one over a temperature of the teacher alone. KDError where shapes do not fit, there
    is one class, or the power is not above 0.
    Zheng & Yang, ICLR 2024 (arXiv 2402.11148); checked against zkxufo/TTM.
    """
    counts, student, teacher = comparable(student, teacher, mask, dim)
    values = divergence((power * teacher).log_softmax(dim), student.log_softmax(dim), dim)
    return mean_of(values, counts)


@LOSSES("wttm")
@mean_over(unmasked)
def wttm(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, power: PositiveFloat = 0.1, dim: int = 1
) -> Tensor:
    """``ttm``, each prediction weighted by the sum of the teacher's powered probabilities: the more, the less sure.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar, a mean as ``ttm`` is. KDError where shapes do not fit, there is one class, or the power is not
    above 0. Zheng & Yang, ICLR 2024 (arXiv 2402.11148); checked against zkxufo/TTM.
    """
    counts, student, teacher = comparable(student, teacher, mask, dim)
    powered = (power * teacher.log_softmax(dim)).clamp(min=LOW)
    total = powered.logsumexp(dim, keepdim=True)
    return mean_of(total.squeeze(dim).exp() * divergence(powered - total, student.log_softmax(dim), dim), counts)
