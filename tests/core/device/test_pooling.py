"""Pooling of whole maps, and the layout of its gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from kd_core.config.runtime import RuntimeSpec
from kd_core.device.folding import folded
from kd_core.device.kernels.library import can_build
from kd_core.device.pooling import AdaptiveAvgPool2d, patch_pools
from kd_core.device.runtime import Runtime


@pytest.mark.parametrize("size", [1, (1, 1), 2, (None, 1)])
@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (5, 6, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_and_gradients_are_pytorchs(size: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    usual, ours = nn.AdaptiveAvgPool2d(size), nn.AdaptiveAvgPool2d(size)
    patch_pools(ours)
    assert type(ours) is AdaptiveAvgPool2d
    maps = torch.randn(shape).to(dtype).requires_grad_()
    expected, out = usual(maps), ours(maps)
    assert torch.equal(out, expected)
    back = torch.randn(out.shape).to(dtype)
    torch.testing.assert_close(torch.autograd.grad(out, maps, back), torch.autograd.grad(expected, maps, back))


def test_the_gradient_has_a_gradient() -> None:
    pool = nn.AdaptiveAvgPool2d(1)
    patch_pools(pool)
    maps = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pool, maps)
    assert torch.autograd.gradgradcheck(pool, maps)


def test_a_map_that_is_scaled_by_what_is_pooled_keeps_its_layout() -> None:
    pool = nn.AdaptiveAvgPool2d(1)
    patch_pools(pool)
    maps = torch.randn(2, 8, 4, 4).contiguous(memory_format=torch.channels_last).requires_grad_()
    (gradient,) = torch.autograd.grad((maps * pool(maps).sigmoid()).square().sum(), maps)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
def test_a_placed_model_is_folded_as_before() -> None:
    runtime = Runtime(RuntimeSpec(device="cpu", channels_last=True, cpu_kernels=["student"]))
    model = runtime.place(resnet18(), "student").eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(model, ()).modules())
