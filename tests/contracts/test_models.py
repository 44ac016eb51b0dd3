"""What every registered model keeps, whoever wrote it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_seg.models.published
import kd_seg.models.unet
import kd_vision.models
import kd_zoo.models  # noqa: F401
from kd_core.models.registry import MODELS
from kd_vision.metrics import logits_of

NEEDED: dict[str, dict[str, Any]] = {
    "cifar-resnet": {"depth": 8},
    "densenet-bc": {"growth": 4, "depth": 10},
    "wrn": {"depth": 10, "width": 1},
}
CHANNELS = {"cnn": 1}
LARGE = {
    "densenet-bc-k24-d250",
    "densenet-bc-k40-d190",
    "resnet110",
    "resnet1202",
    "wrn-28-10",
    "wrn-28-12",
    "wrn-40-8",
    "wrn-22-8",
    "wrn-16-8",
}
TORCHVISION = "torchvision."
SMALL = {
    TORCHVISION + name
    for name in ("lraspp_mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf", "resnet18", "squeezenet1_1")
}
DENSE = {*kd_seg.models.published.FAMILIES, "unet", *(TORCHVISION + name for name in kd_seg.models.published.NAMES)}
ONE_OF_EACH = SMALL | {
    TORCHVISION + name
    for name in (
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "maxvit_t"),
        *("mnasnet0_5", "mobilenet_v2", "shufflenet_v2_x0_5", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_16"),
    )
}
NAMES = MODELS.names()
OURS = [name for name in NAMES if not name.startswith(TORCHVISION)]
ON_META = [
    pytest.param(name, marks=[] if name in ONE_OF_EACH or name in OURS else pytest.mark.slow)
    for name in NAMES
    # torchvision computes the widths of these with tensors, which the meta device has no values for
    if not name.startswith("torchvision.regnet")
]
ON_CPU = sorted({*OURS, *SMALL} - LARGE)


def build(name: str, num_classes: int = 7) -> nn.Module:
    return MODELS.get(name)(num_classes=num_classes, **NEEDED.get(name, {}))


def images(name: str, size: int = 2) -> Tensor:
    if name in OURS or name in DENSE:
        return torch.rand(size, CHANNELS.get(name, 3), 32, 32)
    height, width = kd_vision.models.card_of(name.removeprefix(TORCHVISION)).input_size
    return torch.rand(size, 3, height, width)


def logits(name: str, model: nn.Module, images: Tensor) -> Tensor:
    """(B, classes), or (B, classes, H, W) of models on maps."""
    output = model(images)
    return output["out"] if name in DENSE else logits_of(output)


@pytest.mark.parametrize("name", ON_META)
def test_builds_on_the_meta_device_and_gives_as_many_logits_as_classes(name: str) -> None:
    with torch.device("meta"):
        found = logits(name, build(name).eval(), images(name))
    assert found.shape == ((2, 7, 32, 32) if name in DENSE else (2, 7))


@pytest.mark.parametrize("name", ON_CPU)
def test_is_a_function_of_the_seed_and_survives_its_state_dict(name: str) -> None:
    x = images(name, size=1)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build(name).eval())
    same, again, other = models
    expected = logits(name, same, x)
    assert torch.equal(expected, logits(name, again, x))
    assert not torch.equal(expected, logits(name, other, x))
    other.load_state_dict(same.state_dict())
    assert torch.equal(expected, logits(name, other, x))


@pytest.mark.parametrize("name", ON_CPU)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = build(name)
    logits(name, model, images(name)).square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []
