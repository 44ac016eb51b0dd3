"""Losses that compare a model's softened outputs with a teacher's, other than the KL divergence of ``kd``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kd_core.losses.reduction import mean_over, unmasked
from kd_core.losses.registry import LOSSES
from kd_core.losses.softened import log_softened, mean_of
from kd_core.losses.tensors import divergences
from kd_core.ranges import PositiveFloat, Probability


@LOSSES("reverse_kl")
@mean_over(unmasked)
def reverse_kl(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, temperature: PositiveFloat = 1.0, dim: int = 1
) -> Tensor:
    """KL divergence of the teacher's softened outputs from the student's: it seeks one of the teacher's modes.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: the sum over the classes in dimension ``dim``, the mean over all other unmasked elements, 0 where
    all are masked. Unlike ``kd`` it is not multiplied by the squared temperature. KDError where shapes do not fit,
    there is one class, or the temperature is not above 0.
    Gu et al., MiniLLM, ICLR 2024, eq. 1 (arXiv 2306.08543); checked against jongwooko/distillm and huggingface/trl.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, temperature, dim)
    return mean_of(divergences(log_student, log_teacher).sum(dim), counts)


@LOSSES("jensen_shannon")
@mean_over(unmasked)
def jensen_shannon(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    beta: Probability = 0.5,
    temperature: PositiveFloat = 1.0,
    dim: int = 1,
) -> Tensor:
    """Generalised Jensen-Shannon divergence: both KL divergences from the mixture of the softened outputs.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: beta KL(teacher || M) + (1 - beta) KL(student || M) for M = beta teacher + (1 - beta) student,
    averaged over unmasked elements, 0 where all are masked. As in the checked code beta 0 is KL(teacher || student) and
    beta 1 is KL(student || teacher), which are no limits of it. Not multiplied by the squared temperature. KDError
    where shapes do not fit, there is one class, beta is not in [0, 1] or the temperature not above 0.
    Agarwal et al., GKD, ICLR 2024, eq. 1 (arXiv 2306.13649); checked against huggingface/trl.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, temperature, dim)
    if beta == 0:
        divergence = divergences(log_teacher, log_student).sum(dim)
    elif beta == 1:
        divergence = divergences(log_student, log_teacher).sum(dim)
    else:
        mixture = torch.logaddexp(log_teacher + math.log(beta), log_student + math.log1p(-beta))
        parts = (divergences(log_p, mixture).sum(dim) for log_p in (log_teacher, log_student))
        divergence = beta * next(parts) + (1 - beta) * next(parts)
    return mean_of(divergence, counts)


@LOSSES("total_variation")
@mean_over(unmasked)
def total_variation(student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, dim: int = 1) -> Tensor:
    """Total variation distance between the student's probabilities and the teacher's.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar in [0, 1]: half the sum of absolute differences over the classes in dimension ``dim``, the mean
    over all other unmasked elements, 0 where all are masked. KDError where shapes do not fit or there is one class.
    Wen et al., *f-divergence minimization*, ACL 2023 (arXiv 2307.15190); checked against MANGA-UOFA/fdistill.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, 1.0, dim)
    return mean_of((log_student.exp() - log_teacher.exp()).abs().sum(dim) / 2, counts)


@LOSSES("soft_cross_entropy")
@mean_over(unmasked)
def soft_cross_entropy(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, temperature: PositiveFloat = 1.0, dim: int = 1
) -> Tensor:
    """TinyBERT's prediction loss: cross-entropy of the student's softened outputs with the teacher's.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or token) is
    masked -> scalar: as in the authors' code the mean over the classes in dimension ``dim`` too, so 1 / C of the
    paper's, over all unmasked elements, 0 where all are masked. Not multiplied by the squared temperature. KDError
    where shapes do not fit, there is one class, or the temperature is not above 0.
    Jiao et al., TinyBERT, Findings of EMNLP 2020, eq. 10 (arXiv 1909.10351); checked against
    huawei-noah/Pretrained-Language-Model.
    """
    counts, log_student, log_teacher = log_softened(student, teacher, mask, temperature, dim)
    return mean_of(-(log_teacher.exp() * log_student).mean(dim), counts)
