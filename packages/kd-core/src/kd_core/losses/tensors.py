"""What every loss asks of its inputs: matching shapes and enough precision."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError

LOW = -1e9
"""A logit of which the probability is 0 in float32, and whose products with the smallest numbers are nearly 0."""


def as_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is where it is float32 or float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def same_shape(student: Tensor, teacher: Tensor, *, dim: int = 0, other: str = "teacher") -> tuple[Tensor, Tensor]:
    """Both in full precision. KDError where their shapes differ, or have no dimension ``dim``."""
    if student.shape != teacher.shape:
        raise KDError(f"student {shape(student)} and {other} {shape(teacher)} must have the same shape", path="student")
    if not -student.ndim <= dim < max(student.ndim, 1):
        raise KDError(f"student and {other} {shape(student)} have no dimension {dim}", path="student")
    return as_float32(student), as_float32(teacher)


def same_rows(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both as (B, features) in full precision. KDError where the batch sizes differ."""
    if student.ndim < 2 or teacher.ndim < 2 or len(student) != len(teacher):
        raise KDError(
            f"student {shape(student)} and teacher {shape(teacher)} must be (B, ...) with the same B, one row a sample",
            path="student",
        )
    return as_float32(student).flatten(1), as_float32(teacher).flatten(1)


def layer_pairs(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The layers that are compared: those of two lists of one length, or two tensors. KDError where lengths differ."""
    students, teachers = ([tensor] if isinstance(tensor, Tensor) else tensor for tensor in (student, teacher))
    if len(students) != len(teachers) or not students:
        raise KDError(
            f"student has {len(students)} layers and teacher {len(teachers)}: they are compared one to one",
            path="student",
        )
    return list(zip(students, teachers, strict=True))


def valid_mask(mask: Tensor, student: Tensor, dim: int) -> Tensor:
    """Where ``mask`` is not zero. KDError where it is not laid out as student's vectors along ``dim``."""
    laid_out = student.movedim(dim, -1).shape[:-1]
    if mask.shape != laid_out:
        vectors = f"whose vectors along {dim} are laid out as {tuple(laid_out)}"
        raise KDError(f"mask {shape(mask)} does not fit student, {vectors}", path="mask")
    return mask != 0


def maps_of_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Feature maps (B, C, ...) in full precision, the larger (B, C, H, W) average-pooled to the size of the smaller.

    Channels may differ. KDError where the batch sizes differ, or the sizes of what is not (B, C, H, W).
    """
    fits = student.ndim == teacher.ndim > 2 and len(student) == len(teacher)
    if not fits or (student.ndim != 4 and student.shape[2:] != teacher.shape[2:]):
        rule = "must be (B, C, H, W) with the same B, or differ in nothing but C"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    student, teacher = as_float32(student), as_float32(teacher)
    if student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)


def masked_alike(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits with a very low number where both have minus infinity, for a class that both have masked.

    Its probability is still 0, and what is computed of it is finite. Where one of the two is minus infinity, it stays.
    """
    both = torch.maximum(student, teacher).isneginf()
    return student.masked_fill(both, LOW), teacher.masked_fill(both, LOW)


def standardized(logits: Tensor, dim: int = 1) -> Tensor:
    """``logits`` less their mean and over their standard deviation along ``dim``; minus infinity stays and counts not.

    Sun et al., *Logit Standardization in Knowledge Distillation*, CVPR 2024 (arXiv 2403.01427). KDError where there are
    two classes, whose standardised logits are always the same.
    """
    if logits.shape[dim] < 3:
        reason = "the standardised logits of two classes are always plus and minus 0.71"
        raise KDError(f"student {shape(logits)} cannot be standardised: {reason}", path="standardize")
    finite = ~logits.isneginf()
    number = finite.sum(dim, keepdim=True, dtype=logits.dtype)
    mean = torch.where(finite, logits, 0.0).sum(dim, keepdim=True) / number.clamp(min=1)
    centred = torch.where(finite, logits - mean, 0.0)
    deviation = torch.linalg.vector_norm(centred, dim=dim, keepdim=True) / (number - 1).clamp(min=1).sqrt()
    return torch.where(finite, centred / (deviation + 1e-7), logits)


def hidden(mask: Tensor, *values: Tensor, dim: int) -> list[Tensor]:
    """``values`` with 0 for all of a vector along ``dim`` that is not in ``mask``.

    What stood there, NaN or infinite, reaches neither a loss nor a gradient, as it would through a product with 0.
    """
    return [tensor.masked_fill(~mask.unsqueeze(dim), 0.0) for tensor in values]


def divergences(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p log(p / q), element by element, from logarithms; 0 where p is 0."""
    return log_p.exp() * (log_p - log_q).masked_fill(log_p.isneginf(), 0.0)


def divergence(log_p: Tensor, log_q: Tensor, dim: int = 1) -> Tensor:
    """KL divergences of q from p along ``dim``, from logarithms."""
    log_p = log_p.clamp(min=LOW)  # of minus infinity the product is NaN; this is also faster than torch's kl_div
    return (log_p.exp() * (log_p - log_q)).sum(dim)


def constant(numbers: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``numbers`` (N,) where ``like`` is, of its type or of ``dtype``; kept, for to copy them waits for the device."""
    return _copied(tuple(numbers), dtype or like.dtype, like.device)


@lru_cache(maxsize=256)
def _copied(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # of those that are made in it no gradient can be had later
        return torch.tensor(numbers, dtype=dtype, device=device)


def shape(tensor: Tensor) -> str:
    """``(2, 3)``."""
    return str(tuple(tensor.shape))
