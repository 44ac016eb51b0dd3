"""Pooling of whole channels-last maps, and the 1 x 1 convolutions of what is pooled, as in squeeze and excitation.

PyTorch lays out the gradient of a pooled map otherwise than the map. In a block that scales a map by what it pools of
it, the two gradients of the map are added, which takes ten times as long where they are laid out differently. And a
convolution of maps of one pixel takes several times as long as the product of matrices that it is.
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


class PointwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` of 1 x 1, which multiplies matrices where the maps have one pixel."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not readable(input) or input.dim() != 4 or input.shape[2:] != (1, 1):
            return super()._conv_forward(input, weight, bias)
        return F.linear(input.flatten(1), weight.flatten(1), bias)[:, :, None, None]


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
    """Make the adaptive pools and the 1 x 1 convolutions of a model, in place, those of this module.

    What only derives from PyTorch's is left alone.
    """
    for module in model.modules():
        if type(module) is nn.AdaptiveAvgPool2d:
            module.__class__ = AdaptiveAvgPool2d
        elif type(module) is nn.Conv2d and _is_pointwise(module):
            module.__class__ = PointwiseConv2d


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding in ((0, 0), "valid", "same")
