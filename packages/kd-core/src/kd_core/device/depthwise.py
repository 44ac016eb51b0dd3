"""Depthwise convolutions in bfloat16 on a CPU, with gradients that PyTorch is slow at.

Of a kernel of 5 x 5 with a stride of 2 the images' gradient was seen to take thirty times as long as in float32. Here
gradients are computed by a kernel of ours (``kernels/depthwise.cpp``), or, without a C++ compiler, in float32 and,
where that does as well, by the forward pass's own fast code.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.device.first_order import Gradients, first_order
from kd_core.device.kernels.depthwise import fits, gradients
from kd_core.device.kernels.library import library


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with as many groups as channels; where autocast is on, its gradients are computed another way."""

    kernels = False
    """Whether by our kernel."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if input.ndim != 4 or not (torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
            return super()._conv_forward(input, weight, bias)
        half = torch.get_autocast_dtype("cpu")
        cast = [tensor if tensor is None else tensor.to(half) for tensor in (input, weight, bias)]
        return _Depthwise.apply(*cast, self.stride, self.padding, self.dilation, self.kernels)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Any,
        padding: Any,
        dilation: Any,
        kernels: bool = False,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry, ctx.kernels = (stride, padding, dilation), kernels
        return F.conv2d(images, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of images, weight and bias, each None where it is not needed; None for the geometry."""
        images, weight = ctx.saved_tensors
        if ctx.kernels and fits(images, weight):
            found = _by_kernel(ctx, gradient)
        else:
            found = _in_float32(images, weight, gradient, ctx.geometry, ctx.needs_input_grad)
        made = (grad if grad is None else grad.to(weight.dtype) for grad in found)
        return *made, None, None, None, None


@first_order
def _by_kernel(ctx: Any, gradient: Tensor) -> Gradients:
    """The gradients of images, weight and bias by our kernel."""
    (images, weight), (wants_images, _, wants_bias, *_) = ctx.saved_tensors, ctx.needs_input_grad
    by_images, by_weight = gradients(images, weight, gradient, ctx.geometry, images=wants_images)
    return by_images, by_weight, gradient.float().sum((0, 2, 3)) if wants_bias else None


def _in_float32(
    images: Tensor, weight: Tensor, gradient: Tensor, geometry: tuple[Any, Any, Any], wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """The gradients of images, weight and bias by PyTorch."""
    stride, padding, dilation = geometry
    wants_images, wants_weight, wants_bias, *_ = wanted
    # Of a stride of 1 the images' gradient is the output's, convolved with the kernel turned by 180 degrees.
    around = [d * (k - 1) - p for k, p, d in zip(weight.shape[2:], padding, dilation, strict=True)]
    turned = wants_images and tuple(stride) == (1, 1) and min(around) >= 0
    by_images, by_weight, by_bias = torch.ops.aten.convolution_backward(
        *(tensor.float() for tensor in (gradient, images, weight)),
        [len(weight)] if wants_bias else None,
        stride,
        padding,
        dilation,
        False,
        [0, 0],
        len(weight),
        [wants_images and not turned, wants_weight, wants_bias],
    )
    if turned:
        by_images = F.conv2d(gradient, weight.flip(2, 3), None, 1, around, dilation, len(weight))
    return by_images, by_weight, by_bias


def patch_depthwise_convs(model: nn.Module, *, kernels: bool = False) -> None:
    """Give the depthwise convolutions of a model, in place, the backward pass of :class:`DepthwiseConv2d`.

    With ``kernels`` it is the kernel of ours, which is built now. Parameters, hooks and names stay what they are. What
    only derives from ``nn.Conv2d`` is left alone.
    """
    for module in model.modules():
        if (
            type(module) is nn.Conv2d
            and 1 < module.groups == module.in_channels == module.out_channels
            and isinstance(module.padding, tuple)
            and module.padding_mode == "zeros"
        ):
            module.__class__ = DepthwiseConv2d
            module.kernels = kernels  # type: ignore[assignment]  # modules take attributes for submodules
            if kernels:
                library("depthwise")
