"""What every registered model keeps, whoever wrote it: the checks of :mod:`kd_core.testing`."""

from __future__ import annotations

from typing import Any

import pytest

import kd_seg.models.published
import kd_seg.models.unet
import kd_vision.detection.models
import kd_vision.models
import kd_zoo.models  # noqa: F401
from kd_core.models.registry import MODELS
from kd_core.task import logits_of
from kd_core.testing import MODEL_CHECKS, ModelCase, models
from kd_core.testing.models import CLASSES

NEEDED: dict[str, dict[str, Any]] = {
    "cifar-resnet": {"depth": 8},
    "densenet-bc": {"growth": 4, "depth": 10},
    "wrn": {"depth": 10, "width": 1},
}
CHANNELS = {"cnn": 1}
LARGE = {
    "densenet-bc-k24-d250",
    "densenet-bc-k40-d190",
    "cifar-resnet18",
    "cifar-resnet50",
    "resnet110",
    "resnet1202",
    "resnet32x4",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
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
DETECTORS = {
    *("faster_rcnn", "mask_rcnn", "keypoint_rcnn", "retinanet", "fcos", "gfl", "ssdlite"),
    *(TORCHVISION + name for name in kd_vision.detection.models.NAMES),
}
"""They give no logits: see tests/vision/detection/test_builders.py."""
NAMES = [name for name in MODELS.names() if name not in DETECTORS]
OURS = [name for name in NAMES if not name.startswith(TORCHVISION)]
ON_META = [
    pytest.param(name, marks=[] if name in ONE_OF_EACH or name in OURS else pytest.mark.slow)
    for name in NAMES
    # torchvision computes the widths of these with tensors, which the meta device has no values for
    if not name.startswith("torchvision.regnet")
]
ON_CPU = sorted({*OURS, *SMALL} - LARGE)


def case(name: str) -> ModelCase:
    dense = name in DENSE
    if name in OURS or dense:
        shape = (CHANNELS.get(name, 3), 32, 32)
    else:
        shape = (3, *kd_vision.models.card_of(name.removeprefix(TORCHVISION)).input_size)
    return ModelCase(
        name,
        shape,
        NEEDED.get(name, {}),
        logits=(lambda output: output["out"]) if dense else logits_of,
        output=(CLASSES, 32, 32) if dense else (CLASSES,),
    )


@pytest.mark.parametrize("name", ON_META)
def test_builds_on_the_meta_device_and_gives_as_many_logits_as_classes(name: str) -> None:
    models.builds_on_the_meta_device(case(name))


@pytest.mark.parametrize("name", ON_CPU)
def test_is_a_function_of_the_seed_and_survives_its_state_dict(name: str) -> None:
    models.weights_are_a_function_of_the_seed(case(name))


@pytest.mark.parametrize("name", ON_CPU)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    models.every_parameter_gets_a_gradient(case(name))


def test_these_are_all_checks() -> None:
    checks = {models.builds_on_the_meta_device, models.weights_are_a_function_of_the_seed}
    assert {*checks, models.every_parameter_gets_a_gradient} == set(MODEL_CHECKS)
