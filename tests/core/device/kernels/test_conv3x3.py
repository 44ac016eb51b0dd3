"""The gradient of a 3 x 3 convolution's weights, beside PyTorch's in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.kernels import conv3x3 as kernel
from kd_core.device.kernels.conv3x3 import conv3x3, fits
from kd_core.device.kernels.library import can_build

with_amx = pytest.mark.skipif(not (can_build() and kernel._amx()), reason="this processor has no AMX")


def half(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)


@with_amx
@pytest.mark.parametrize(
    ("batch", "channels", "out", "height", "width"),
    [(8, 16, 16, 32, 32), (5, 16, 32, 7, 9), (37, 32, 16, 10, 35), (3, 128, 64, 5, 1), (40, 32, 32, 16, 16)],
)
def test_gradients_are_pytorchs(batch: int, channels: int, out: int, height: int, width: int) -> None:
    gradient = half(batch, out, height, width, seed=1)
    # more than one shape in turn, because buffers are kept between calls of one
    for images in (half(batch, channels, height, width), half(max(1, batch // 2), channels, height, width, seed=2)):
        images.requires_grad_()
        weight = (torch.randn(out, channels, 3, 3) / channels).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            got = conv3x3(images, weight)
            wanted = F.conv2d(images, weight, padding=1)
        assert torch.equal(got, wanted)
        by_images, by_weight = torch.autograd.grad(got, (images, weight), gradient[: len(images)])
        exact = torch.nn.grad.conv2d_weight(
            images.detach().float(), weight.shape, gradient[: len(images)].float(), padding=1
        )
        assert float((by_weight - exact).abs().max() / exact.abs().max()) < 1e-4
        (like,) = torch.autograd.grad(wanted, images, gradient[: len(images)])
        assert torch.equal(by_images, like)


@with_amx
def test_what_is_frozen_gets_no_gradient() -> None:
    images, weight = half(2, 16, 4, 4).requires_grad_(), torch.randn(16, 16, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        conv3x3(images, weight).sum().backward()
    assert images.grad is not None
    assert weight.grad is None


def test_without_autocast_it_is_pytorchs_own() -> None:
    images, weight = torch.randn(2, 16, 5, 5), torch.randn(16, 16, 3, 3)
    assert torch.equal(conv3x3(images, weight), F.conv2d(images, weight, padding=1))


@pytest.mark.parametrize(
    ("shape", "fitting"),
    [((16, 32, 3, 3), True), ((16, 3, 3, 3), False), ((24, 16, 3, 3), False), ((16, 16, 1, 1), False)],
)
def test_which_weights_fit(shape: tuple[int, ...], fitting: bool) -> None:
    assert fits(torch.empty(shape)) is fitting
