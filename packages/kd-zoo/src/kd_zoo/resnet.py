"""Residual networks for 32x32 images (He et al., CVPR 2016, section 4.2, arXiv 1512.03385).

Module names, and so state dicts, are those of torchdistill's zoo and of the benchmark of RepDistiller and mdistiller:
weights published for them load here. Like there, a shortcut that changes shape is a 1x1 convolution (the paper's option
B), unless ``shortcut`` is ``pad`` (option A, the paper's own for CIFAR).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, checked

WIDTHS = (16, 16, 32, 64)
"""Channels of the first convolution and of the three groups."""
WIDTHS_X4 = (32, 64, 128, 256)
"""The same of the benchmark's ``resnet8x4`` and ``resnet32x4``."""
DEPTHS = (8, 14, 20, 32, 44, 56, 110, 1202)
Shortcut = Literal["conv", "pad"]


class PaddedShortcut(nn.Module):
    """Every ``stride``-th pixel, and as many channels of zeros on either side: (B, C, H, W) -> (B, width, H/s, W/s)."""

    def __init__(self, in_width: int, width: int, stride: int) -> None:
        super().__init__()
        self.before, self.after = (width - in_width) // 2, (width - in_width + 1) // 2
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in_width, H, W) -> (B, width, H / stride, W / stride)."""

    def __init__(self, in_width: int, width: int, stride: int, *, shortcut: Shortcut = "conv") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module | None = None
        if (stride != 1 or in_width != width) and shortcut == "pad":
            self.downsample = PaddedShortcut(in_width, width, stride)
        elif stride != 1 or in_width != width:
            self.downsample = nn.Sequential(nn.Conv2d(in_width, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


@checked
class CifarResNet(nn.Module):
    """ResNet of three groups: images (B, in_channels, H, W) -> logits (B, num_classes).

    ``depth`` counts the layers with weights on the longest path: 6n + 2. ``widths`` are the channels of the first
    convolution and of the groups, whose outputs are ``layer1`` (H, W), ``layer2`` (H/2, W/2) and ``layer3`` (H/4, W/4).
    Any H and W work; the paper's are 32. KDError for another depth.
    """

    def __init__(
        self,
        depth: int,
        *,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 3,
        shortcut: Shortcut = "conv",
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise KDError(f"a CIFAR ResNet has depth 6n + 2 ({', '.join(map(str, DEPTHS))}, ...), not {depth}")
        block = partial(BasicBlock, shortcut=shortcut)
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = group(block, blocks, widths[0], widths[1], stride=1)
        self.layer2 = group(block, blocks, widths[1], widths[2], stride=2)
        self.layer3 = group(block, blocks, widths[2], widths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The groups' outputs, and the sums before their last ReLUs."""
        groups = ("layer1", "layer2", "layer3")
        return {
            "features": list(groups),
            "preactivations": [f"{path}.-1.relu:in:1" for path in groups],
            "norms": [f"{path}.-1.bn2" for path in groups],
            "classifier": "fc",
            "last_map": "avgpool:in",
        }


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


def _register(name: str, depth: int, widths: Sequence[int] = WIDTHS) -> None:
    @MODELS(name)
    def build(
        *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3, shortcut: Shortcut = "conv"
    ) -> CifarResNet:
        return CifarResNet(depth, num_classes=num_classes, in_channels=in_channels, shortcut=shortcut, widths=widths)

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"ResNet-{depth} for 32x32 images{', four times as wide' if widths is WIDTHS_X4 else ''}."


for _depth in DEPTHS:
    _register(f"resnet{_depth}", _depth)
for _depth in (8, 32):
    _register(f"resnet{_depth}x4", _depth, WIDTHS_X4)


@MODELS("cifar-resnet")
def cifar_resnet(
    *, depth: int, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3, shortcut: Shortcut = "conv"
) -> CifarResNet:
    """A CIFAR ResNet of any depth 6n + 2."""
    return CifarResNet(depth, num_classes=num_classes, in_channels=in_channels, shortcut=shortcut)
