"""Losses of maps of logits, as those of segmentation (``logits.cpp``)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from kd_core.device.first_order import Gradients, first_order
from kd_core.device.kernels.library import KINDS, address, in_use, library, readable


def fits(logits: Tensor, *others: Tensor) -> bool:
    """Whether kernels are in use, and there is one for logits (B, C, H, W) and ``others`` of so many pixels.

    Logits are channels-last and of a kernel's type, all of it is on the CPU, and others have no gradient.
    """
    shapes = (logits.shape, logits.shape[:1] + logits.shape[2:])
    return (
        in_use()
        and readable(logits, *others)
        and logits.dim() == 4
        and logits.numel() > 0
        and logits.dtype in KINDS
        and logits.is_contiguous(memory_format=torch.channels_last)
        and all(other.shape in shapes and not other.requires_grad for other in others)
    )


def cross_entropy(logits: Tensor, labels: Tensor, unlabelled: int) -> Tensor:
    """The mean over labelled pixels of (B, C, H, W) with (B, H, W), float32; 0 where none is.

    Exact in float32 also where logits are bfloat16; the gradient has their type.

    Raises:
        IndexError: A label is no class.
    """
    return _CrossEntropy.apply(logits, labels.long().contiguous(), unlabelled)


def divergence(student: Tensor, teacher: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
    """What :func:`kd_core.losses.softened.soft_divergence` is of (B, C, H, W), with counts (B, H, W), float32.

    Exact in float32 also where both are bfloat16; the gradient has the student's type. The teacher has none.
    """
    if student.dtype != teacher.dtype:
        student, teacher = student.float(), teacher.float()
    teacher = teacher.contiguous(memory_format=torch.channels_last)
    return _Divergence.apply(student, teacher, None if counts is None else counts.contiguous(), temperature)


def _sizes(logits: Tensor) -> tuple[Any, ...]:
    classes = logits.shape[1]
    return ctypes.c_int64(logits.numel() // classes), ctypes.c_int64(classes), int(logits.dtype == torch.bfloat16)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, unlabelled: int) -> Tensor:
        log_sums, mean, none = torch.empty(*labels.shape, 2), torch.empty(()), ctypes.c_int64(unlabelled)
        run = library("logits").entropy_forward
        run.restype = ctypes.c_int64
        count = run(*map(address, (logits, labels, log_sums, mean)), *_sizes(logits), none)
        if count < 0:
            wrong = labels[(labels != unlabelled) & ((labels < 0) | (labels >= logits.shape[1]))]
            raise IndexError(f"target {wrong[0]} is out of bounds")
        ctx.none, ctx.count = none, count
        ctx.save_for_backward(logits, labels, log_sums)
        return mean

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """The gradient of the logits."""
        logits, labels, log_sums = ctx.saved_tensors
        out = torch.empty_like(logits)
        factor = ctypes.c_float(float(gradient) / max(ctx.count, 1))
        arrays = map(address, (logits, labels, log_sums, out))
        library("logits").entropy_backward(*arrays, *_sizes(logits), ctx.none, factor)
        return out, None, None


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, counts: Tensor | None, temperature: float) -> Tensor:
        log_sums, mean = torch.empty(2, student.numel() // student.shape[1], 2), torch.empty(())
        run = library("logits").divergence_forward
        run.restype = ctypes.c_int64
        arrays = map(address, (student, teacher, counts, log_sums, mean))
        ctx.count = run(*arrays, *_sizes(student), ctypes.c_float(1 / temperature))
        ctx.temperature = temperature
        ctx.save_for_backward(student, teacher, counts, log_sums)
        return mean.mul_(temperature**2)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """The gradient of the student's logits."""
        student, teacher, counts, log_sums = ctx.saved_tensors
        out = torch.empty_like(student)
        arrays = map(address, (student, teacher, counts, log_sums, out))
        factor = ctypes.c_float(float(gradient) * ctx.temperature / max(ctx.count, 1))
        library("logits").divergence_backward(*arrays, *_sizes(student), ctypes.c_float(1 / ctx.temperature), factor)
        return out, None, None, None
