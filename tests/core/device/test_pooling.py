"""Pooling of whole maps, and the layout of its gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from kd_core.config.runtime import RuntimeSpec
from kd_core.device.folding import folded
from kd_core.device.kernels.library import can_build
from kd_core.device.pooling import AdaptiveAvgPool2d, PointwiseConv2d, patch_pools
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


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"stride": 2}, {"padding": "valid"}, {"padding": "same"}])
@pytest.mark.parametrize("shape", [(3, 5, 1, 1), (3, 5, 4, 1), (5, 1, 1)])
def test_convolutions_of_pooled_maps_are_products(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    ours = nn.Conv2d(5, 7, 1, **options).double()
    usual = copy.deepcopy(ours)
    patch_pools(ours)
    assert type(ours) is PointwiseConv2d
    maps = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    outcomes = []
    for conv in (ours, usual):
        out = conv(maps)
        outcomes.append([out, *torch.autograd.grad(out.square().sum(), [maps, *conv.parameters()])])
    torch.testing.assert_close(*outcomes)


def test_other_convolutions_are_left_alone() -> None:
    class Own(nn.Conv2d):
        pass

    others = [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, padding=1), Own(4, 4, 1)]
    model = nn.Sequential(*others)
    patch_pools(model)
    assert not any(isinstance(module, PointwiseConv2d) for module in model)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_pooled_convolution_has_the_precision_of_the_run(precision: str) -> None:
    conv = nn.Conv2d(5, 7, 1)
    patch_pools(conv)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        assert conv(torch.randn(3, 5, 1, 1)).dtype is (torch.bfloat16 if precision == "bf16" else torch.float32)


@pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
def test_a_placed_model_is_folded_as_before() -> None:
    runtime = Runtime(RuntimeSpec(device="cpu", channels_last=True, cpu_kernels=["student"]))
    model = runtime.place(resnet18(), "student").eval()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(model, ()).modules())


def test_a_convolution_of_one_pixel_can_be_traced() -> None:
    model = nn.Sequential(nn.Conv2d(5, 7, 1))
    patch_pools(model)
    maps = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(maps), model(maps))
