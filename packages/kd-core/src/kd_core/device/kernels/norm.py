"""Batch normalisation in training, with the sum and the ReLU that follow it (``norm.cpp``)."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.device.first_order import first_order
from kd_core.device.kernels.library import KINDS, address, library, readable


def batch_norm(
    maps: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
    added: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """``relu(batch_norm(maps) + added)`` with the statistics of the batch, which move the running ones.

    ``maps`` and ``added`` are (B, C, H, W), the others (C,). In one kernel where the maps are channels-last, on the
    CPU and of one type, float32 or bfloat16; the sum is then rounded once instead of twice. Elsewhere by PyTorch.
    """
    if _fits(maps, weight, bias, running_mean, running_var) and (added is None or _alike(maps, added)):
        return _BatchNorm.apply(maps, running_mean, running_var, weight, bias, momentum, eps, added, relu)
    out = F.batch_norm(maps, running_mean, running_var, weight, bias, True, momentum, eps)
    out = out if added is None else out + added
    return F.relu(out) if relu else out


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, by the kernel in training."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W), normalised."""
        usual = self.weight is None or not (self.training and self.track_running_stats)
        if usual or self.momentum is None or self.bias is None or not readable(input):
            return super().forward(input)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var)
        return batch_norm(input, *running, self.weight, self.bias, self.momentum, self.eps)


def patch_norms(model: nn.Module) -> None:
    """Make the batch norms of a model, in place, :class:`BatchNorm2d`. What derives from them is left alone."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d


def _fits(maps: Tensor, *parameters: Tensor | None) -> bool:
    return (
        readable(maps, *parameters)
        and maps.dim() == 4
        and maps.dtype in KINDS
        and maps.is_contiguous(memory_format=torch.channels_last)
        and maps.numel() > maps.shape[1]
        and all(values is None or _is_row(values, maps.shape[1]) for values in parameters)
        and library("norm").norm_fits(*_size(maps)) == 1
    )


def _is_row(values: Tensor, channels: int) -> bool:
    return values.dtype == torch.float32 and values.shape == (channels,) and values.is_contiguous()


def _alike(maps: Tensor, added: Tensor) -> bool:
    return readable(added) and added.dtype == maps.dtype and added.shape == maps.shape


def _size(maps: Tensor) -> tuple[ctypes.c_int64, ctypes.c_int64]:
    return ctypes.c_int64(maps.numel() // maps.shape[1]), ctypes.c_int64(maps.shape[1])


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        maps: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        momentum: float,
        eps: float,
        added: Tensor | None,
        relu: bool,
    ) -> Tensor:
        if added is not None:
            added = added.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(maps)
        mean = maps[0, :, 0, 0].to(torch.float32, copy=True)  # sums are taken about the first pixel
        rstd = torch.empty_like(mean)
        library("norm").norm_forward(
            *map(address, (maps, added, out, weight, bias, mean, rstd, running_mean, running_var)),
            *_size(maps),
            ctypes.c_float(momentum),
            ctypes.c_float(eps),
            int(relu),
            int(maps.dtype == torch.bfloat16),
        )
        ctx.save_for_backward(maps, weight, bias, mean, rstd, out if relu and added is not None else None)
        ctx.adds, ctx.relu = added is not None, relu
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the maps, weight, bias and what is added; None for the rest."""
        maps, weight, bias, mean, rstd, out = ctx.saved_tensors
        gradient = gradient.to(maps.dtype).contiguous(memory_format=torch.channels_last)
        by_maps, by_weight, by_bias = torch.empty_like(maps), torch.empty_like(weight), torch.empty_like(weight)
        by_added = None if not ctx.adds else torch.empty_like(maps) if ctx.relu else gradient
        library("norm").norm_backward(
            *map(address, (gradient, maps, out, by_maps, by_added if ctx.relu else None)),
            *map(address, (weight, bias, mean, rstd, by_weight, by_bias)),
            *_size(maps),
            int(ctx.relu),
            int(maps.dtype == torch.bfloat16),
        )
        return by_maps, None, None, by_weight, by_bias, None, None, by_added, None
