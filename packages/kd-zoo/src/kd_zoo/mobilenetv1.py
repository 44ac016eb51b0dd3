"""MobileNetV1 for large images, the student of ResNet-50 in the ImageNet tables of distillation.

Howard et al. 2017 (arXiv 1704.04861), table 1. Module names, and so state dicts, are those of mdistiller's model.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, checked

BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)
"""Channels and stride of each separable convolution."""
STEM = 32
LAST = (3, 5, 11, 13)
"""The last block of each resolution: H/4, H/8, H/16, H/32."""


def _normalised(in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(in_width, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def _separable(in_width: int, width: int, stride: int) -> nn.Sequential:
    """A 3x3 convolution of each channel and a 1x1 convolution of all: (B, in_width, H, W) -> (B, width, H/s, W/s)."""
    return nn.Sequential(*_normalised(in_width, in_width, 3, stride, groups=in_width), *_normalised(in_width, width, 1))


@checked
class MobileNetV1(nn.Module):
    """MobileNet of width 1: images (B, in_channels, H, W) -> logits (B, num_classes). The paper's H and W are 224."""

    def __init__(self, *, num_classes: PositiveInt = 1000, in_channels: PositiveInt = 3) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Sequential(*_normalised(in_channels, STEM, 3, 2))]
        channels = STEM
        for width, stride in BLOCKS:
            blocks.append(_separable(channels, width, stride))
            channels = width
        self.model = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.model(x).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The output of the last block of each resolution from H/4 on, and the same before its ReLU."""
        norms = [f"model.{block}.-2" for block in LAST]
        return {
            "features": [f"model.{block}" for block in LAST],
            "preactivations": norms,
            "norms": norms,
            "classifier": "fc",
            "last_map": "model.-1:in",
        }


@MODELS("mobilenetv1")
def mobilenetv1(*, num_classes: PositiveInt = 1000, in_channels: PositiveInt = 3) -> MobileNetV1:
    """MobileNetV1 of width 1 for images of 224x224."""
    return MobileNetV1(num_classes=num_classes, in_channels=in_channels)
