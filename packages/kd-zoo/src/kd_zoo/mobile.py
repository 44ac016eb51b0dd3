"""MobileNetV2, ShuffleNetV1 and ShuffleNetV2 for 32x32 images, as in the benchmark of RepDistiller and mdistiller.

Sandler et al., CVPR 2018 (arXiv 1801.04381); Zhang et al., CVPR 2018 (arXiv 1707.01083); Ma et al., ECCV 2018
(arXiv 1807.11164). Module names, and so state dicts, are those of the benchmark.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveFloat, PositiveInt, checked

INVERTED = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, blocks, and stride of MobileNetV2's groups."""


def _conv(in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_width, width, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


def _normalised(in_width: int, width: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution, batch norm, ReLU."""
    return [_conv(in_width, width, kernel, stride, groups), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


class InvertedResidual(nn.Module):
    """Wider, along the channels' planes, narrower: (B, in_width, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, in_width: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_width * expansion
        self.conv = nn.Sequential(
            *_normalised(in_width, inner, 1),
            *_normalised(inner, inner, 3, stride, groups=inner),
            _conv(inner, width, 1),
            nn.BatchNorm2d(width),
        )
        self.residual = stride == 1 and in_width == width

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


@checked
class CifarMobileNetV2(nn.Module):
    """MobileNetV2 of a width: images (B, in_channels, H, W) -> logits (B, num_classes).

    Outputs of groups: ``conv1`` (H/2, W/2), ``blocks.1`` (H/2, W/2), ``blocks.2`` (H/4, W/4), ``blocks.4`` (H/8, W/8),
    ``blocks.6`` (H/16, W/16).
    """

    def __init__(
        self, width: PositiveFloat = 0.5, *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3
    ) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*_normalised(in_channels, channels, 3, 2))
        groups = []
        for expansion, at_one, count, first in INVERTED:
            blocks, out = [], int(at_one * width)
            for position in range(count):
                blocks.append(InvertedResidual(channels, out, first if position == 0 else 1, expansion))
                channels = out
            groups.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*groups)
        last = max(1280, int(1280 * width))
        self.conv2 = nn.Sequential(*_normalised(channels, last, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Linear(last, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # fan-out of one group, as in the benchmark
                nn.init.normal_(module.weight, std=(2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5)
        nn.init.normal_(self.classifier[0].weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.classifier[0].bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.conv2(self.blocks(self.conv1(x)))).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The outputs of the last groups of each resolution, which no ReLU ends."""
        groups = ["blocks.1", "blocks.2", "blocks.4", "blocks.6"]
        norms = [f"{path}.-1.conv.-1" for path in groups]
        return {
            "features": groups,
            "preactivations": groups,
            "norms": norms,
            "classifier": "classifier.0",
            "last_map": "avgpool:in",
        }


class ShuffleV1Block(nn.Module):
    """Grouped 1x1, depthwise 3x3 and grouped 1x1 convolutions; with a stride of 2 the pooled input is put beside them.

    (B, in_width, H, W) -> (B, width, H, W), or (B, in_width + width, H/2, W/2).
    """

    def __init__(self, in_width: int, width: int, stride: int, groups: int) -> None:
        super().__init__()
        inner, first = width // 4, 1 if in_width == 24 else groups
        self.conv1 = _conv(in_width, inner, 1, groups=first)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU(inplace=True)
        self.shuffle1 = nn.ChannelShuffle(first)
        self.conv2 = _conv(inner, inner, 3, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = _conv(inner, width, 1, groups=groups)
        self.bn3 = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential(nn.AvgPool2d(3, stride=2, padding=1)) if stride == 2 else nn.Sequential()
        self.relu = nn.ReLU(inplace=True)
        self.beside = stride == 2

    def forward(self, x: Tensor) -> Tensor:
        out = self.shuffle1(self.relu1(self.bn1(self.conv1(x))))
        out = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(out)))))
        shortcut = self.shortcut(x)
        return self.relu(torch.cat([out, shortcut], 1) if self.beside else out + shortcut)


def _group_v1(in_width: int, width: int, blocks: int) -> nn.Sequential:
    rest = (ShuffleV1Block(width, width, 1, groups=3) for _ in range(blocks - 1))
    return nn.Sequential(ShuffleV1Block(in_width, width - in_width, 2, groups=3), *rest)


@checked
class CifarShuffleNetV1(nn.Module):
    """ShuffleNet of three groups: images (B, in_channels, H, W) -> logits (B, num_classes).

    The groups' outputs are ``layer1`` (H/2, W/2), ``layer2`` (H/4, W/4) and ``layer3`` (H/8, W/8).
    """

    def __init__(self, *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _group_v1(24, 240, 4)
        self.layer2 = _group_v1(240, 480, 8)
        self.layer3 = _group_v1(480, 960, 4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(960, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(self.avgpool(x).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The groups' outputs, and the sums before their last ReLUs."""
        return _groups_of_shuffle_net()


class ShuffleV2Block(nn.Module):
    """Half of the channels through three convolutions, all shuffled: (B, width, H, W) -> the same.

    The input comes from a ReLU, so that a ReLU of both halves changes one only; what enters it is the pre-activation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = _conv(half, half, 1)
        self.bn1 = nn.BatchNorm2d(half)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = _conv(half, half, 3, groups=half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _conv(half, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(right)))))
        out = self.bn3(self.conv3(out))
        return self.shuffle(self.relu(torch.cat([left, out], 1)))


class ShuffleV2Down(nn.Module):
    """Half as high and wide: (B, in_width, H, W) -> (B, width, H/2, W/2)."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1 = _conv(in_width, in_width, 3, 2, groups=in_width)
        self.bn1 = nn.BatchNorm2d(in_width)
        self.conv2 = _conv(in_width, half, 1)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = _conv(in_width, half, 1)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = _conv(half, half, 3, 2, groups=half)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = _conv(half, half, 1)
        self.bn5 = nn.BatchNorm2d(half)
        self.relu = nn.ReLU(inplace=True)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        left = self.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))))
        right = self.bn4(self.conv4(self.relu(self.bn3(self.conv3(x)))))
        return self.shuffle(torch.cat([left, self.relu(self.bn5(self.conv5(right)))], 1))


def _group_v2(in_width: int, width: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(ShuffleV2Down(in_width, width), *(ShuffleV2Block(width) for _ in range(blocks)))


@checked
class CifarShuffleNetV2(nn.Module):
    """ShuffleNetV2 of width 1: images (B, in_channels, H, W) -> logits (B, num_classes).

    The groups' outputs are ``layer1`` (H/2, W/2), ``layer2`` (H/4, W/4) and ``layer3`` (H/8, W/8).
    """

    def __init__(self, *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> None:
        super().__init__()
        self.conv1 = _conv(in_channels, 24, 1)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _group_v2(24, 116, 3)
        self.layer2 = _group_v2(116, 232, 7)
        self.layer3 = _group_v2(232, 464, 3)
        self.conv2 = _conv(464, 1024, 1)
        self.bn2 = nn.BatchNorm2d(1024)
        self.relu2 = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x))))))
        return self.linear(self.avgpool(self.relu2(self.bn2(self.conv2(x)))).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The groups' outputs, and their halves side by side before the last ReLUs."""
        return _groups_of_shuffle_net()


def _groups_of_shuffle_net() -> dict[str, Any]:
    groups = ("layer1", "layer2", "layer3")
    return {
        "features": list(groups),
        "preactivations": [f"{path}.-1.relu:in" for path in groups],
        "classifier": "linear",
        "last_map": "avgpool:in",
    }


@MODELS("mobilenetv2-half")
def mobilenetv2_half(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> CifarMobileNetV2:
    """The CIFAR-100 benchmark's MobileNetV2, of half width."""
    return CifarMobileNetV2(0.5, num_classes=num_classes, in_channels=in_channels)


@MODELS("shufflenetv1")
def shufflenetv1(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> CifarShuffleNetV1:
    """The CIFAR-100 benchmark's ShuffleNetV1, of three groups of channels."""
    return CifarShuffleNetV1(num_classes=num_classes, in_channels=in_channels)


@MODELS("shufflenetv2")
def shufflenetv2(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> CifarShuffleNetV2:
    """The CIFAR-100 benchmark's ShuffleNetV2."""
    return CifarShuffleNetV2(num_classes=num_classes, in_channels=in_channels)
