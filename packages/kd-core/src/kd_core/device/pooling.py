"""Pooling of whole channels-last maps, whose gradient PyTorch lays out otherwise than the map.

In a block that scales a map by what it pools of it (squeeze and excitation), the two gradients of the map are added,
which takes ten times as long where they are laid out differently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.device.kernels.library import readable


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """``nn.AdaptiveAvgPool2d``; of an output of 1 x 1 the gradient is one number of each channel, expanded."""

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, H, W), pooled."""
        whole = self.output_size in (1, (1, 1), [1, 1]) and readable(input) and input.dim() == 4
        return _Mean.apply(input) if whole else super().forward(input)


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        return F.adaptive_avg_pool2d(maps, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The same part of the gradient for each pixel."""
        return (gradient / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)


def patch_pools(model: nn.Module) -> None:
    """Make the adaptive pools of a model, in place, those of :class:`AdaptiveAvgPool2d`."""
    for module in model.modules():
        if type(module) is nn.AdaptiveAvgPool2d:
            module.__class__ = AdaptiveAvgPool2d
