"""Dropout, by itself and of an attention's weights, whose mask is made again for the gradient (``dropout.cpp``).

PyTorch draws the numbers of a mask one after another, which on a CPU takes longer than the layers beside it.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd_core.device.first_order import first_order
from kd_core.device.kernels.library import KINDS, address, library, readable

WORDS = 2**32
"""Numbers that are drawn, all as likely."""


class Dropout(nn.Dropout):
    """``nn.Dropout`` by a kernel, with the same probabilities and other numbers than PyTorch's.

    What is dropped follows from a seed that PyTorch's generator gives, so runs are as reproducible as with PyTorch's.
    """

    def forward(self, input: Tensor) -> Tensor:
        """An array of any shape; what is kept of it is divided by the probability of being kept."""
        if (
            not (self.training and 0.0 < self.p < 1.0)
            or self.inplace
            or not readable(input)
            or input.dtype not in KINDS
        ):
            return super().forward(input)
        return _Dropout.apply(input, _Rate.drawn(self.p))


def patch_dropouts(model: nn.Module) -> None:
    """Make the dropouts of a model, in place, those of :class:`Dropout`. What derives from them is left alone."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = Dropout
            library("dropout")  # built now: an error of the compiler belongs to the beginning of a run


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """Scaled dot-product attention of (B, H, N, D) over (B, H, M, D), with dropout of its weights: (B, H, N, D).

    ``mask`` is True where a key is seen, of a shape that broadcasts to (B, H, N, M); a row that sees none gives zeros.
    ``scale`` is 1 / sqrt(D) by default. Under autocast, products are of its type. On a CPU, float32 or bfloat16.
    """
    scores = torch.matmul(query, key.transpose(-2, -1))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    mask = None if mask is None else mask.expand(scores.shape)
    weights = _Softmax.apply(scores, mask, scale, _Rate.drawn(dropout))
    return torch.matmul(weights, value)


class _Rate(NamedTuple):
    """What is dropped: with which probability, and by which seed."""

    p: float
    seed: int

    @classmethod
    def drawn(cls, p: float) -> _Rate:
        """A seed of PyTorch's generator, which is left alone where nothing is dropped."""
        return cls(p, int(torch.empty((), dtype=torch.int64).random_()) if p else 0)

    def values(self, dtype: torch.dtype) -> tuple[Any, ...]:
        """The last arguments of the kernels."""
        dropped = ctypes.c_uint32(min(round(self.p * WORDS), WORDS - 1))
        scale = ctypes.c_float(1 / (1 - self.p))
        return ctypes.c_uint64(self.seed), dropped, scale, int(dtype == torch.bfloat16)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, rate: _Rate) -> Tensor:
        ctx.rate = rate
        if not values.is_contiguous(memory_format=torch.channels_last):
            values = values.contiguous()
        out = torch.empty_like(values)
        ctx.strides = out.stride()
        arrays = map(address, (values, out))
        library("dropout").dropout(*arrays, ctypes.c_int64(values.numel()), *rate.values(values.dtype))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """What was kept is kept of the gradient, which is laid out as the values were."""
        if gradient.stride() != ctx.strides:
            gradient = torch.empty_strided(gradient.shape, ctx.strides, dtype=gradient.dtype).copy_(gradient)
        return _Dropout.apply(gradient, ctx.rate), None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, mask: Tensor | None, scale: float, rate: _Rate) -> Tensor:
        scores = scores.contiguous()
        if mask is not None and mask.stride(-1) != 1:
            mask = mask.contiguous()
        out = torch.empty_like(scores)
        weights = torch.empty_like(scores) if ctx.needs_input_grad[0] and rate.p else None
        steps = (0, 0, 0) if mask is None else mask.stride()[:3]
        ctx.sizes = (ctypes.c_int64 * 7)(*scores.shape, *steps)
        ctx.scale, ctx.rate = ctypes.c_float(scale), rate
        arrays = map(address, (scores, mask, weights, out))
        library("dropout").softmax_forward(*arrays, ctx.sizes, ctx.scale, *rate.values(scores.dtype))
        ctx.save_for_backward(out if weights is None else weights)
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient of the scores."""
        (weights,) = ctx.saved_tensors
        gradient = gradient.to(weights.dtype).contiguous()
        out = torch.empty_like(weights)
        arrays = map(address, (gradient, weights, out))
        library("dropout").softmax_backward(*arrays, ctx.sizes, ctx.scale, *ctx.rate.values(weights.dtype))
        return out, None, None, None
