"""Two models' softened probabilities, their logarithms and divergence, and the mean of what is computed of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_core.device.first_order import first_order
from kd_core.errors import KDError
from kd_core.losses.closed_form import LIMITS, log_ratio
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


def soft_divergence(student: Tensor, teacher: Tensor, counts: Tensor | None, temperature: float, dim: int) -> Tensor:
    """KL divergence of the student's softened outputs from the teacher's, times the squared temperature, a scalar.

    student, teacher: logits of one shape in full precision; counts in that shape without ``dim``, true where a row
    counts -> the sum over ``dim``, the mean over what counts, 0 where nothing does. What stands in other rows, NaN or
    infinite, reaches neither value nor gradient. A class of which the teacher's probability is 0 adds 0, though the
    student's be 0 too; one of which the student's alone is 0 makes it infinite. It is the usual line, ``kl_div`` of
    ``log_softmax`` and ``softmax``: its value and its gradient for the student bit for bit.
    """
    divergence: Tensor = _SoftDivergence.apply(student, teacher, counts, temperature, dim)
    return divergence


class _SoftDivergence(torch.autograd.Function):
    """One node of the graph in the place of ten, and no mask of truth values, which are slow on a CPU."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, counts: Tensor | None, temperature: float, dim: int
    ) -> Tensor:
        log_q = _over(student, temperature).log_softmax(dim)
        p = _over(teacher, temperature).softmax(dim)
        _, most, scale = LIMITS[p.dtype]
        values = torch.xlogy(p, p).sub_(log_q.clamp_min(-most).mul_(p))  # as kl_div, but 0 times infinity is 0
        number: int | Tensor = student.numel() // student.shape[dim]
        if counts is None:
            total = values.sum()
        else:
            total, number = values.sum(dim).where(counts, 0.0).sum(), counts.sum(dtype=p.dtype).clamp_(min=1)
        ctx.save_for_backward(log_q, p, counts)
        ctx.number, ctx.temperature, ctx.dim = number, temperature, dim
        return total.mul_(scale).mul_(1 / scale).div_(number).mul_(temperature**2)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """For log q the gradient is minus p, for p it is log(p / q) + 1."""
        (log_q, p, counts), dim = ctx.saved_tensors, ctx.dim
        gradient = gradient * ctx.temperature**2 / ctx.number
        student = teacher = None
        if ctx.needs_input_grad[0]:
            student = torch._log_softmax_backward_data(p * gradient, log_q, dim, p.dtype)
            student = _counted(_over(student, -ctx.temperature), counts, dim)
        if ctx.needs_input_grad[1]:
            ratio = log_ratio(p, log_q).add_(1).mul_(gradient)
            teacher = _over(torch._softmax_backward_data(ratio, p, dim, p.dtype), ctx.temperature)
            teacher = _counted(teacher, counts, dim)
        return student, teacher, None, None, None


def _counted(gradient: Tensor, counts: Tensor | None, dim: int) -> Tensor:
    """``gradient`` with 0 in the rows that do not count, whatever stands there."""
    return gradient if counts is None else gradient.masked_fill_(~counts.unsqueeze(dim), 0.0)


def _over(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1 else logits / temperature
