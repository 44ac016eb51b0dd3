"""ResNets of four groups for 32x32 images, as in the CIFAR-100 benchmark of RepDistiller and mdistiller.

He et al., CVPR 2016 (arXiv 1512.03385), table 1, without the first stride and pooling. Module names, and so state
dicts, are those of the benchmark's ``ResNet18`` and ``ResNet50``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, checked
from kd_zoo.resnet import initialise


def _shortcut(in_width: int, out: int, stride: int) -> nn.Sequential:
    if stride == 1 and in_width == out:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_width, out, 1, stride, bias=False), nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in_width, H, W) -> (B, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_width, width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (B, in_width, H, W) -> (B, 4 width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(in_width, 4 * width, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


def _group(
    block: type[BasicBlock] | type[Bottleneck], blocks: int, in_width: int, width: int, stride: int
) -> nn.Sequential:
    rest = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(in_width, width, stride), *rest)


@checked
class FourGroupResNet(nn.Module):
    """A ResNet of four groups of ``blocks`` blocks: images (B, in_channels, H, W) -> logits (B, num_classes).

    The groups' outputs are ``layer1`` (H, W) to ``layer4`` (H/8, W/8).
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 3,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        one, two, three, four = blocks
        self.layer1 = _group(block, one, 64, 64, 1)
        self.layer2 = _group(block, two, 64 * block.expansion, 128, 2)
        self.layer3 = _group(block, three, 128 * block.expansion, 256, 2)
        self.layer4 = _group(block, four, 256 * block.expansion, 512, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512 * block.expansion, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(self.avgpool(x).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The groups' outputs, and the sums before their last ReLUs."""
        groups = ("layer1", "layer2", "layer3", "layer4")
        norm = "bn3" if isinstance(self.layer4[0], Bottleneck) else "bn2"
        return {
            "features": list(groups),
            "preactivations": [f"{path}.-1.relu:in" for path in groups],
            "norms": [f"{path}.-1.{norm}" for path in groups],
            "classifier": "linear",
            "last_map": "avgpool:in",
        }


@MODELS("cifar-resnet18")
def cifar_resnet18(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> FourGroupResNet:
    """The CIFAR-100 benchmark's ResNet18."""
    return FourGroupResNet(BasicBlock, (2, 2, 2, 2), num_classes=num_classes, in_channels=in_channels)


@MODELS("cifar-resnet50")
def cifar_resnet50(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> FourGroupResNet:
    """The CIFAR-100 benchmark's ResNet50."""
    return FourGroupResNet(Bottleneck, (3, 4, 6, 3), num_classes=num_classes, in_channels=in_channels)
