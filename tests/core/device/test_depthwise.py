"""Gradients of depthwise convolutions in bfloat16, against those of double precision."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.config.runtime import RuntimeSpec
from kd_core.device.depthwise import DepthwiseConv2d, patch_depthwise_convs
from kd_core.device.folding import folded
from kd_core.device.kernels import depthwise as kernel
from kd_core.device.kernels.library import can_build
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError

with_compiler = pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
CHANNELS = 6
GEOMETRIES: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "bias": False},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 5, "padding": 2, "stride": (2, 1)},
    {"kernel_size": 5, "padding": 4, "dilation": 2},
    {"kernel_size": (3, 5), "padding": (0, 2)},
    {"kernel_size": 1, "padding": 1},  # padded by more than the kernel reaches
    {"kernel_size": 2},
]


def gradients(model: nn.Module, images: Tensor, *, half: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """A model's output, and the gradients of images and parameters for an output's gradient that is always the same."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = model(images)
    by_output = torch.linspace(-1, 1, output.numel()).view_as(output).bfloat16().to(output.dtype)
    names = [name for name, _ in model.named_parameters()]
    found = torch.autograd.grad(output, [images, *model.parameters()], by_output)
    return output, dict(zip(["images", *names], found, strict=True))


def convolution(**geometry: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    made = nn.Conv2d(CHANNELS, CHANNELS, groups=CHANNELS, **geometry)
    with torch.no_grad():  # numbers that bfloat16 holds, as those of the images: what is rounded are the results
        for each in made.parameters():
            each.copy_(each.bfloat16())
    return made


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, CHANNELS, 9, 11, generator=torch.Generator().manual_seed(1)).bfloat16().float()


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=with_compiler)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_gradients_are_those_of_double_precision(
    geometry: dict[str, Any], layout: torch.memory_format, compiled: bool, kernels: bool, images: Tensor
) -> None:
    plain = convolution(**geometry)
    output, _ = gradients(plain, images)
    _, expected = gradients(copy.deepcopy(plain).double(), images.double(), half=False)
    patch_depthwise_convs(plain, kernels=kernels)
    assert type(plain) is DepthwiseConv2d
    if compiled:
        torch._dynamo.reset()
        plain.compile(backend="aot_eager", fullgraph=True)
    ours, found = gradients(plain.to(memory_format=layout), images.contiguous(memory_format=layout))
    assert torch.equal(ours, output)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value.double(), expected[name], rtol=2**-6, atol=2**-6, msg=name)


@with_compiler
@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (40, 2)])
def test_a_kernel_has_whole_and_part_vectors(channels: int, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    compute = kernel._gradients
    monkeypatch.setattr(kernel, "_gradients", lambda *given: called.append(1) or compute(*given))
    images = torch.randn(4, channels, 12, 10).bfloat16().float().contiguous(memory_format=torch.channels_last)
    found = {}
    for kernels in (False, True):
        torch.manual_seed(0)
        made = nn.Conv2d(channels, channels, 3, stride, 1, groups=channels).to(memory_format=torch.channels_last)
        patch_depthwise_convs(made, kernels=kernels)
        found[kernels] = gradients(made, images)[1]
    assert called
    for name, value in found[True].items():
        torch.testing.assert_close(value, found[False][name], rtol=2**-6, atol=2**-6, msg=name)


@with_compiler
def test_a_frozen_input_gets_no_gradient(images: Tensor) -> None:
    made = convolution(kernel_size=3, padding=1).to(memory_format=torch.channels_last)
    patch_depthwise_convs(made, kernels=True)
    with torch.autocast("cpu", torch.bfloat16):
        made(images.contiguous(memory_format=torch.channels_last)).sum().backward()
    assert made.weight.grad is not None
    assert images.grad is None


def test_it_is_pytorchs_without_autocast(images: Tensor) -> None:
    plain = convolution(kernel_size=5, padding=2)
    ours = copy.deepcopy(plain)
    patch_depthwise_convs(ours)
    (one, expected), (other, found) = (gradients(each, images, half=False) for each in (plain, ours))
    assert torch.equal(one, other)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("frozen", [{"weight", "bias"}, {"bias"}, {"images"}])
def test_what_is_frozen_has_no_gradient(frozen: set[str], stride: int, images: Tensor) -> None:
    model = convolution(kernel_size=3, padding=1, stride=stride)
    _, expected = gradients(copy.deepcopy(model).double(), images.double(), half=False)
    patch_depthwise_convs(model)
    tensors = {"images": images.clone(), **dict(model.named_parameters())}
    for name, tensor in tensors.items():
        tensor.requires_grad_(name not in frozen)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(tensors["images"])
    output.backward(torch.linspace(-1, 1, output.numel()).view_as(output).bfloat16())
    for name, tensor in tensors.items():
        if name in frozen:
            assert tensor.grad is None
        else:
            assert tensor.grad is not None
            torch.testing.assert_close(tensor.grad.double(), expected[name], rtol=2**-6, atol=2**-6)


def test_an_image_without_a_batch(images: Tensor) -> None:
    plain = convolution(kernel_size=3, padding=1)
    _, expected = gradients(plain, images[0])
    patch_depthwise_convs(plain)
    _, found = gradients(plain, images[0])
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class Own(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(4, 4, 3),
        lambda: nn.Conv2d(4, 4, 3, groups=2),
        lambda: nn.Conv2d(4, 8, 3, groups=4),
        lambda: nn.Conv2d(1, 1, 3),
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        lambda: nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect"),
        lambda: nn.Conv1d(4, 4, 3, groups=4),
        lambda: Own(4, 4, 3, groups=4),
    ],
)
def test_other_convolutions_are_left_alone(make: Callable[[], nn.Module]) -> None:
    model = make()
    before = type(model)
    patch_depthwise_convs(model)
    assert type(model) is before


def block() -> nn.Module:
    return nn.Sequential(convolution(kernel_size=3, bias=False), nn.BatchNorm2d(CHANNELS))


def test_names_copies_and_folding_stay(images: Tensor) -> None:
    model = block()
    before = model.state_dict()
    model = Runtime(RuntimeSpec(device="cpu", precision="bf16")).place(model)
    assert type(model[0]) is DepthwiseConv2d
    assert model.state_dict().keys() == before.keys()
    cheap = folded(model, [])
    assert type(cheap[1]) is nn.Identity
    torch.testing.assert_close(cheap(images), model.eval()(images))


def test_other_precisions_have_pytorchs() -> None:
    assert type(Runtime(RuntimeSpec(device="cpu")).place(block())[0]) is nn.Conv2d


FAULTS = """
import resource, torch
from kd_core.device.runtime import Runtime
from kd_core.config.runtime import RuntimeSpec

Runtime(RuntimeSpec(device="cpu"))
pages = []
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for size in (2**20, 2**24, 2**26):
        torch.ones(size)
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(*pages)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_memory_is_kept_from_step_to_step() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    first, *_, last = map(int, done.stdout.split())
    assert last < first / 20, done.stdout


@pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
def test_a_gradient_of_the_kernels_gradient_is_refused() -> None:
    model = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    patch_depthwise_convs(model, kernels=True)
    maps = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = model(maps)
    (gradient,) = torch.autograd.grad(out.sum(), maps, create_graph=True)
    with pytest.raises(KDError, match="has no gradient itself"):
        gradient.sum().backward()
