"""Logarithms of two models' softened probabilities, and the mean of what is computed of them."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.tensors import hidden, masked_alike, same_shape, shape, valid_mask


def log_softened(
    student: Tensor, teacher: Tensor, mask: Tensor | None, temperature: float, dim: int
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Where ``mask`` is not zero, and the logarithms of both models' probabilities."""
    counts, student, teacher = comparable(student, teacher, mask, dim)
    return counts, (student / temperature).log_softmax(dim), (teacher / temperature).log_softmax(dim)


def comparable(student: Tensor, teacher: Tensor, mask: Tensor | None, dim: int) -> tuple[Tensor | None, Tensor, Tensor]:
    """Where ``mask`` is not zero, and both models' logits, checked. KDError where there is one class."""
    student, teacher = same_shape(student, teacher, dim=dim)
    if student.shape[dim] == 1:
        hint = "take multilabel_kd for a yes/no output, else mse"
        raise KDError(
            f"student {shape(student)} has one class, whose probability is always 1", hint=hint, path="student"
        )
    counts = None if mask is None else valid_mask(mask, student, dim)
    student, teacher = masked_alike(student, teacher)
    if counts is not None:
        student, teacher = hidden(counts, student, teacher, dim=dim)
    return counts, student, teacher


def mean_of(values: Tensor, counts: Tensor | None) -> Tensor:
    """The mean of the elements that count."""
    if counts is None:
        return values.mean()
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp(min=1)
