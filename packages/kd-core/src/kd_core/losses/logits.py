"""Losses on a model's outputs: labels and softened outputs of a teacher."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.kernels import logits as kernels
from kd_core.errors import KDError
from kd_core.losses.reduction import UNLABELLED, labelled, mean_over, mean_over_samples, takes_half, unmasked
from kd_core.losses.registry import LOSSES
from kd_core.losses.softened import soft_divergence
from kd_core.losses.tensors import (
    LOW,
    as_float32,
    constant,
    hidden,
    masked_alike,
    same_shape,
    shape,
    standardized,
    valid_mask,
)
from kd_core.ranges import PositiveFloat, Probability


@LOSSES("cross_entropy")
@takes_half
@mean_over(labelled)
def cross_entropy(
    student: Tensor, target: Tensor, *, label_smoothing: Probability = 0.0, class_weights: list[float] | None = None
) -> Tensor:
    """Cross-entropy with the labels, averaged over the labelled elements; 0 where none is.

    student (B, C) or (B, C, ...), target integers (B,) or (B, ...), -100 for unlabelled, or the probabilities
    themselves in student's shape -> scalar, that of ``torch.nn.functional.cross_entropy``. With ``class_weights``
    (C numbers) the mean over integer labels is weighted. KDError where shapes do not fit, there is one class,
    or a label is not below C.
    """
    plain = class_weights is None and not label_smoothing and not target.is_floating_point()
    kernel = plain and kernels.fits(student, target)
    student = student if kernel else as_float32(student)
    classes = student.shape[1] if student.ndim > 1 else 0
    weights = None if class_weights is None else constant(class_weights, student)
    if weights is not None and len(weights) != classes:
        raise KDError(
            f"class_weights has {len(weights)} numbers, but student {shape(student)} has {classes} classes",
            path="class_weights",
        )
    if classes == 1:
        hint = "take mse for numbers, or !call:torch.nn.BCEWithLogitsLoss for a yes/no output"
        message = f"cross_entropy of student {shape(student)}, one class, is always 0"
        raise KDError(message, path="student", hint=hint)
    if target.is_floating_point():
        soft = same_shape(student, target, other="target")[1].to(student.dtype)
        if not label_smoothing:
            student = student.masked_fill(student.isneginf() & (soft == 0), LOW)  # 0 times minus infinity is NaN
        return F.cross_entropy(student, soft, weights, label_smoothing=label_smoothing)
    if not classes or target.shape != student.shape[:1] + student.shape[2:]:
        rule = "integer labels have student's shape without its dimension 1, the classes"
        raise KDError(f"target {shape(target)} does not fit student {shape(student)}: {rule}", path="target")
    try:
        if kernel:
            return kernels.cross_entropy(student, target, UNLABELLED)
        return _labelled(student, target.long(), weights, label_smoothing)
    except IndexError as reason:
        raise KDError(
            f"target holds a label that is not below {classes}, student's classes: {reason}", path="target"
        ) from reason


def _labelled(student: Tensor, target: Tensor, weights: Tensor | None, label_smoothing: float) -> Tensor:
    """PyTorch's mean over the labelled, but 0 where it would divide 0 by 0."""
    counts = target != UNLABELLED
    (student,) = hidden(counts, student, dim=1)
    if weights is not None:
        counts = counts & (weights[target.clamp(min=0)] > 0)
        target = target.where(counts.any(), UNLABELLED)  # dividing by a total weight of 0 makes NaN gradients
    loss = F.cross_entropy(student, target, weights, ignore_index=UNLABELLED, label_smoothing=label_smoothing)
    return torch.where(counts.any(), loss, torch.zeros_like(loss))


@LOSSES("kd")
@takes_half
@mean_over(unmasked)
def kd(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: PositiveFloat = 4.0,
    dim: int = 1,
    standardize: bool = False,
) -> Tensor:
    """KL divergence of the student's softened outputs from the teacher's, times the squared temperature.

    student, teacher (B, C) or (B, C, ...) logits; mask in that shape without ``dim``, zero where a row (or pixel, or
    token) is masked -> scalar: the sum over the classes in dimension ``dim``, the mean over all other unmasked
    elements, 0 where all are masked. ``standardize`` brings both models' logits to mean 0 and standard deviation 1
    first (Sun et al., CVPR 2024, arXiv 2403.01427; checked against sunshangquan/logit-standardization-KD). KDError
    where shapes do not fit, there is one class (two, where they are standardised), or the temperature is not above 0.
    Hinton, Vinyals & Dean, 2015, section 2 (arXiv 1503.02531); checked against HobbitLong/RepDistiller,
    megvii-research/mdistiller and szagoruyko/attention-transfer.
    """
    kernel = dim == 1 and not standardize and kernels.fits(student, teacher) and student.shape == teacher.shape
    if kernel and student.shape[1] > 1:
        counts = None if mask is None else valid_mask(mask, student, dim)
        return kernels.divergence(student, teacher, counts, temperature)
    student, teacher = same_shape(student, teacher, dim=dim)
    if student.shape[dim] == 1:
        hint = "take multilabel_kd for a yes/no output, else mse"
        raise KDError(f"kd of one class, {shape(student)}, is always 0", hint=hint)
    counts = None if mask is None else valid_mask(mask, student, dim)
    if standardize:
        if counts is not None:
            student, teacher = hidden(counts, student, teacher, dim=dim)
        student, teacher = standardized(student, dim), standardized(teacher, dim)
    return soft_divergence(student, teacher, counts, temperature, dim)


@LOSSES("multilabel_kd")
@mean_over_samples
def multilabel_kd(student: Tensor, teacher: Tensor, *, temperature: PositiveFloat = 1.0) -> Tensor:
    """KL divergence of the student's yes/no distribution of each class from the teacher's, for multi-label outputs.

    student, teacher (B, C) or (B, C, ...) logits -> scalar: the sum over the classes, the mean over all else, times
    the squared temperature. KDError where the shapes differ or the temperature is not above 0.
    Yang et al., Multi-Label Knowledge Distillation, ICCV 2023 (arXiv 2308.06453), with a temperature added;
    at 1 checked against penghui-yang/L2D, which clamps probabilities to [1e-8, 1 - 1e-8] where this takes log-sigmoids.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    student, teacher = (tensor / temperature for tensor in masked_alike(student, teacher))
    # 0 log 0 is 0, and not a product with infinity
    yes = (F.logsigmoid(teacher) - F.logsigmoid(student)).masked_fill(teacher.isneginf(), 0.0)
    no = (F.logsigmoid(-teacher) - F.logsigmoid(-student)).masked_fill(teacher.isposinf(), 0.0)
    return (teacher.sigmoid() * yes + (-teacher).sigmoid() * no).sum(1).mean() * temperature**2
