"""Batch normalisation in training, with the sum and the activation that follow it (``norm.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import pairwise, zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.device.derived import Derived, are_plain, derive
from kd_core.device.first_order import first_order
from kd_core.device.kernels.library import KINDS, address, library, readable

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "relu6": F.relu6, "hardswish": F.hardswish}
"""Activations that the kernel knows, in its order. Behind a sum it knows a ReLU only."""
LAYERS = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish"}


def batch_norm(
    maps: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
    eps: float,
    added: Tensor | None = None,
    activation: str | None = None,
) -> Tensor:
    """``activation(batch_norm(maps) + added)`` with the statistics of the batch, which move the running ones.

    ``maps`` and ``added`` are (B, C, H, W), the others (C,). In one kernel where the maps are channels-last, on the
    CPU and of one type, float32 or bfloat16, and is then rounded once, at the end. Elsewhere by PyTorch.
    ``activation`` is one of :data:`FUNCTIONS`, with ``added`` a ReLU.
    """
    known = added is None or (_alike(maps, added) and activation in (None, "relu"))
    if known and _fits(maps, weight, bias, running_mean, running_var):
        return _BatchNorm.apply(maps, running_mean, running_var, weight, bias, momentum, eps, added, activation)
    out = F.batch_norm(maps, running_mean, running_var, weight, bias, True, momentum, eps)
    out = out if added is None else out + added
    return out if activation is None else FUNCTIONS[activation](out)


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d``, by the kernel in training."""

    def forward(self, input: Tensor, activation: str | None = None) -> Tensor:
        """Maps (B, C, H, W), normalised, and behind an ``activation`` if one is named."""
        usual = self.weight is None or not (self.training and self.track_running_stats)
        if usual or self.momentum is None or self.bias is None or not readable(input):
            out = super().forward(input)
            return out if activation is None else FUNCTIONS[activation](out)
        self._check_input_dim(input)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var)
        return batch_norm(input, *running, self.weight, self.bias, self.momentum, self.eps, activation=activation)


class FusedSequential(Derived):
    """``nn.Sequential`` in which a norm and the activation behind it are one kernel, unless a hook looks at either."""

    def forward(self, input: Any) -> Any:
        """What the last module gives."""
        out, fused = input, None
        modules: list[Any] = list(self)  # type: ignore[call-overload]  # it is a Sequential
        for module, follower in zip_longest(modules, modules[1:]):
            if module is fused:
                fused = None
                continue
            fits = type(module) is BatchNorm2d and follower is not None and are_plain((module, follower))
            activation = LAYERS.get(type(follower)) if fits else None
            out = module(out) if activation is None else module(out, activation)
            fused = None if activation is None else follower
        return out


def patch_norms(model: nn.Module) -> None:
    """Make the batch norms of a model, in place, :class:`BatchNorm2d`, and one kernel with what follows them in turn.

    What derives from a norm is left alone, and so is a sequence with a pass of its own.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d
    for module in model.modules():
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            kinds = [type(each) for each in module]
            if any(left is BatchNorm2d and right in LAYERS for left, right in pairwise(kinds)):
                derive(module, FusedSequential)


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


def _code(activation: str | None) -> int:
    """The kernel's number of an activation."""
    return 0 if activation is None else 1 + list(FUNCTIONS).index(activation)


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
        activation: str | None,
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
            _code(activation),
            int(maps.dtype == torch.bfloat16),
        )
        ctx.save_for_backward(maps, weight, bias, mean, rstd, out if activation and added is not None else None)
        ctx.adds, ctx.activation = added is not None, activation
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the maps, weight, bias and what is added; None for the rest."""
        maps, weight, bias, mean, rstd, out = ctx.saved_tensors
        gradient = gradient.to(maps.dtype).contiguous(memory_format=torch.channels_last)
        by_maps, by_weight, by_bias = torch.empty_like(maps), torch.empty_like(weight), torch.empty_like(weight)
        by_added = None if not ctx.adds else torch.empty_like(maps) if ctx.activation else gradient
        library("norm").norm_backward(
            *map(address, (gradient, maps, out, by_maps, by_added if ctx.activation else None)),
            *map(address, (weight, bias, mean, rstd, by_weight, by_bias)),
            *_size(maps),
            _code(ctx.activation),
            int(maps.dtype == torch.bfloat16),
        )
        return by_maps, None, None, by_weight, by_bias, None, None, by_added, None
