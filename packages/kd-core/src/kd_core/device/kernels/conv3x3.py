"""3 x 3 convolutions in bfloat16, whose weights' gradient is computed with AMX (``conv3x3.cpp``)."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.first_order import first_order
from kd_core.device.kernels.library import address, library, readable

CHANNELS = 16
"""What the numbers of channels are multiples of: the rows of an AMX tile."""


def conv3x3(images: Tensor, weight: Tensor) -> Tensor:
    """The convolution of (B, C, H, W) with (O, C, 3, 3), stride and padding 1, no bias: (B, O, H, W).

    Under autocast to bfloat16, on a CPU with AMX, the gradient of ``weight`` is not PyTorch's: as exact, and up to
    three times as fast on narrow maps; it is not rounded to bfloat16.
    """
    if not (_amx() and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16):
        return F.conv2d(images, weight, padding=1)
    images = images.to(torch.bfloat16)
    if not (readable(images, weight) and images.is_contiguous(memory_format=torch.channels_last)):
        return F.conv2d(images, weight, padding=1)
    return _Conv3x3.apply(images, weight)


def fits(weight: Tensor) -> bool:
    """Whether a weight is one of :func:`conv3x3`'s."""
    return weight.shape[2:] == (3, 3) and weight.shape[0] % CHANNELS == weight.shape[1] % CHANNELS == 0


@cache
def _amx() -> bool:
    # The system grants the tiles to a process that asks, which the library does.
    return torch.cpu._is_amx_tile_supported() and library("conv3x3").allow_tiles() == 1


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor) -> Tensor:
        half = weight.to(torch.bfloat16)
        ctx.save_for_backward(images, half)
        ctx.dtype = weight.dtype
        return F.conv2d(images, half, padding=1)

    @staticmethod
    @first_order
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of images and weight, each None where it is not needed."""
        images, weight = ctx.saved_tensors
        by_images = by_weight = None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        one, mask = [1, 1], [True, False, False]
        if ctx.needs_input_grad[0]:
            by_images, _, _ = torch.ops.aten.convolution_backward(
                gradient, images, weight, None, one, one, one, False, [0, 0], 1, mask
            )
        if ctx.needs_input_grad[1]:
            by_weight = torch.empty(weight.shape)
            batch, channels, height, width = map(ctypes.c_int64, images.shape)
            library("conv3x3").weight_gradient(
                *map(address, (images, gradient, by_weight)),
                *(batch, height, width, channels, ctypes.c_int64(len(weight))),
            )
            by_weight = by_weight.to(ctx.dtype)
        return by_images, by_weight
