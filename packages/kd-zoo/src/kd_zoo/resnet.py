"""Residual networks for 32x32 images (He et al., CVPR 2016, section 4.2, arXiv 1512.03385).

Module names, and so state dicts, are those of torchdistill's zoo: weights published for it load here. Like
there, a shortcut that changes shape is a 1x1 convolution (the paper's option B), not padding.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, checked

WIDTHS = (16, 32, 64)
DEPTHS = (20, 32, 44, 56, 110, 1202)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in_width, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


@checked
class CifarResNet(nn.Module):
    """ResNet of three groups of widths 16, 32, 64: images (B, in_channels, H, W) -> logits (B, num_classes).

    ``depth`` counts the layers with weights on the longest path: 6n + 2. The groups' outputs are ``layer1`` (H, W),
    ``layer2`` (H/2, W/2) and ``layer3`` (H/4, W/4). Any H and W work; the paper's are 32. KDError for another depth.
    """

    def __init__(self, depth: int, *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise KDError(f"a CIFAR ResNet has depth 6n + 2 ({', '.join(map(str, DEPTHS))}, ...), not {depth}")
        self.conv1 = nn.Conv2d(in_channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = group(BasicBlock, blocks, WIDTHS[0], WIDTHS[0], stride=1)
        self.layer2 = group(BasicBlock, blocks, WIDTHS[0], WIDTHS[1], stride=2)
        self.layer3 = group(BasicBlock, blocks, WIDTHS[1], WIDTHS[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTHS[2], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))


def group(
    block: Callable[[int, int, int], nn.Module], blocks: int, in_width: int, width: int, stride: int
) -> nn.Sequential:
    """``blocks`` blocks of one width, of which the first changes width and resolution."""
    return nn.Sequential(block(in_width, width, stride), *(block(width, width, 1) for _ in range(blocks - 1)))


def initialise(model: nn.Module) -> None:
    """He initialisation of convolutions by fan-out (arXiv 1502.01852); the other layers keep PyTorch's."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _register(depth: int) -> None:
    @MODELS(f"resnet{depth}")
    def build(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> CifarResNet:
        return CifarResNet(depth, num_classes=num_classes, in_channels=in_channels)

    build.__name__ = build.__qualname__ = f"resnet{depth}"
    build.__doc__ = f"ResNet-{depth} for 32x32 images."


for _depth in DEPTHS:
    _register(_depth)


@MODELS("cifar-resnet")
def cifar_resnet(*, depth: int, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> CifarResNet:
    """A CIFAR ResNet of any depth 6n + 2."""
    return CifarResNet(depth, num_classes=num_classes, in_channels=in_channels)
