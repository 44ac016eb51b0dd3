"""Detectors under autocast: anchors, losses and boxes are float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.models.registry import MODELS
from kd_vision.detection.task import ObjectDetection

SMALL = {"backbone": "cnn", "width": 4, "pyramid_channels": 8, "num_classes": 3, "min_size": 320, "max_size": 320}


def detector(arch: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.get(arch)(**SMALL)


@pytest.mark.parametrize("arch", ["retinanet", "faster_rcnn", "fcos"])
def test_anchors_and_losses_of_bf16_are_float32(arch: str) -> None:
    model, seen = detector(arch), list[Any]()
    generator = next(module for name, module in model.named_modules() if name.endswith("anchor_generator"))
    generator.register_forward_hook(lambda module, arguments, anchors: seen.extend(anchors))
    images = [torch.rand(3, 300, 320)]
    targets = [{"boxes": torch.tensor([[257.0, 20.0, 300.0, 60.0]]), "labels": torch.tensor([1])}]
    with torch.autocast("cpu", torch.bfloat16):
        losses = ObjectDetection().call(model.train(), {"images": images, "targets": targets})
        found = ObjectDetection().call(model.eval(), {"images": images})
    exact = ObjectDetection().call(model.train(), {"images": images, "targets": targets})
    assert {anchors.dtype for anchors in seen} == {torch.float32}
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert found[0]["boxes"].dtype == torch.float32
    assert_near(losses["loss"], exact["loss"])


def assert_near(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=0.05, atol=0.02)


def test_nothing_is_left_in_the_model() -> None:
    model = detector("retinanet")
    with torch.autocast("cpu", torch.bfloat16):
        ObjectDetection().call(model.eval(), {"images": [torch.rand(3, 64, 64)]})
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
