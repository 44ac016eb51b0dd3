"""Cross-entropy of a map of logits with a label for each pixel (``cross_entropy.cpp``)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from kd_core.device.first_order import first_order
from kd_core.device.kernels.library import address, in_use, library

KINDS = (torch.float32, torch.bfloat16)


def fits(logits: Tensor, labels: Tensor) -> bool:
    """Whether kernels are in use and there is one for logits (B, C, H, W) and labels (B, H, W): channels-last, CPU."""
    return (
        in_use()
        and logits.device.type == labels.device.type == "cpu"
        and logits.dim() == 4
        and logits.dtype in KINDS
        and labels.shape == logits.shape[:1] + logits.shape[2:]
        and logits.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def cross_entropy(logits: Tensor, labels: Tensor, unlabelled: int) -> Tensor:
    """The mean over labelled pixels of (B, C, H, W) with (B, H, W), float32; 0 where none is labelled.

    Exact in float32 also where logits are bfloat16; their gradient is in their type.

    Raises:
        IndexError: A label is no class.
    """
    return _CrossEntropy.apply(logits, labels.long().contiguous(), unlabelled)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, unlabelled: int) -> Tensor:
        sums, mean = torch.empty(labels.shape), torch.empty(())
        sizes = (labels.numel(), logits.shape[1], unlabelled)
        ctx.sizes = tuple(map(ctypes.c_int64, sizes))
        run = library("cross_entropy").entropy_forward
        run.restype = ctypes.c_int64
        count = run(*map(address, (logits, labels, sums, mean)), *ctx.sizes, int(logits.dtype == torch.bfloat16))
        if count < 0:
            wrong = labels[(labels != unlabelled) & ((labels < 0) | (labels >= logits.shape[1]))]
            raise IndexError(f"target {wrong[0]} is out of bounds")
        ctx.count = count
        ctx.save_for_backward(logits, labels, sums)
        return mean

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the logits."""
        logits, labels, sums = ctx.saved_tensors
        out = torch.empty_like(logits)
        factor = ctypes.c_float(float(gradient) / max(ctx.count, 1))
        arrays = map(address, (logits, labels, sums, out))
        library("cross_entropy").entropy_backward(*arrays, *ctx.sizes, factor, int(logits.dtype == torch.bfloat16))
        return out, None, None
