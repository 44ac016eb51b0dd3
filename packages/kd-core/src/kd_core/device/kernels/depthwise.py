"""The gradients of depthwise convolutions in bfloat16 (``depthwise.cpp``)."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from kd_core.device.kernels.library import address, library, readable

COLUMNS = (3, 5, 7)
"""The widths of kernels that there is code for."""


def fits(maps: Tensor, weight: Tensor) -> bool:
    """Whether there is code for maps (B, C, H, W) and weight (C, 1, k, k): bfloat16, channels-last, on the CPU."""
    return (
        readable(maps, weight)
        and maps.dtype == torch.bfloat16
        and weight.shape[3] in COLUMNS
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


def gradients(
    maps: Tensor, weight: Tensor, gradient: Tensor, geometry: tuple[Sequence[int], ...], *, images: bool
) -> tuple[Tensor | None, Tensor]:
    """The gradients of maps, if ``images``, and of weight, in float32. ``geometry`` is stride, padding and dilation."""
    flat = [value for pair in geometry for value in pair]
    by_maps, by_weight = _gradients(maps, weight, gradient, flat, images)
    return by_maps if images else None, by_weight


def _made(
    maps: Tensor, weight: Tensor, gradient: Tensor, geometry: Sequence[int], images: bool
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(maps) if images else maps.new_empty(0), torch.empty(weight.shape)


# An operation of PyTorch's, because torch.compile follows no call of a C function.
@torch.library.custom_op("kd_core::depthwise_gradients", mutates_args=())
def _gradients(
    maps: Tensor, weight: Tensor, gradient: Tensor, geometry: Sequence[int], images: bool
) -> tuple[Tensor, Tensor]:
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    weights = weight.float().contiguous()
    by_maps, by_weight = _made(maps, weight, gradient, geometry, images)
    sizes = [*maps.shape, *gradient.shape[2:], *weight.shape[2:], *geometry]
    library("depthwise").depthwise_gradients(
        *map(address, (maps, gradient, weights, by_maps if images else None, by_weight)),
        (ctypes.c_int64 * len(sizes))(*sizes),
    )
    return by_maps, by_weight


_gradients.register_fake(_made)
