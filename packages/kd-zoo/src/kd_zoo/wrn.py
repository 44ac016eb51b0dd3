"""Wide residual networks for 32x32 images (Zagoruyko & Komodakis, BMVC 2016, arXiv 1605.07146).

Module names, and so state dicts, are those of torchdistill's zoo: weights published for it load here. Like there, the
convolution of a shortcut sees the block's input itself; in the authors' code it sees it after normalisation and ReLU.
So it does in the benchmark of RepDistiller and mdistiller, whose networks are ``wrn-16-2-benchmark`` and its like, with
the module names there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, Probability, checked
from kd_zoo.resnet import group, initialise

NAMED = ((16, 1), (16, 2), (16, 4), (16, 8), (22, 8), (28, 2), (28, 10), (28, 12), (40, 1), (40, 2), (40, 4), (40, 8))
"""(depth, width) of the networks in the papers' tables; ``wrn`` builds every other one."""
BENCHMARK = ((16, 1), (16, 2), (40, 1), (40, 2))
"""The same of the networks in the benchmark's tables."""


class WideBlock(nn.Module):
    """Two 3x3 convolutions, each after normalisation and ReLU: (B, in_width, H, W) -> (B, width, H/s, W/s)."""

    def __init__(self, in_width: int, width: int, stride: int, *, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_width != width:
            self.shortcut.append(nn.Conv2d(in_width, width, 1, stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.relu(self.bn1(x)))
        out = self.conv2(self.relu(self.bn2(self.dropout(out))))
        return out + self.shortcut(x)


@checked
class WideResNet(nn.Module):
    """WRN-depth-width: images (B, in_channels, H, W) -> logits (B, num_classes).

    ``depth`` is 6n + 4; ``width`` multiplies the widths 16, 32, 64 of the three groups, whose outputs are ``layer1``
    (H, W), ``layer2`` (H/2, W/2) and ``layer3`` (H/4, W/4). Any H and W work; the paper's are 32. KDError for another
    depth.
    """

    def __init__(
        self,
        depth: int,
        width: PositiveInt,
        *,
        dropout: Probability = 0.0,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 3,
    ) -> None:
        super().__init__()
        blocks, widths = blocks_of(depth), (16 * width, 32 * width, 64 * width)
        block = partial(WideBlock, dropout=dropout)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = group(block, blocks, 16, widths[0], stride=1)
        self.layer2 = group(block, blocks, widths[0], widths[1], stride=2)
        self.layer3 = group(block, blocks, widths[1], widths[2], stride=2)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The groups' outputs, and the same normalised by what comes next."""
        return {
            "features": ["layer1", "layer2", "layer3"],
            "preactivations": ["layer2.0.bn1", "layer3.0.bn1", "bn1"],
            "norms": ["layer2.0.bn1", "layer3.0.bn1", "bn1"],
            "classifier": "fc",
            "last_map": "avgpool:in",
        }


def blocks_of(depth: int) -> int:
    """The blocks of a group; KDError where the depth is not 6n + 4."""
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise KDError(f"a wide ResNet has depth 6n + 4 (10, 16, 22, 28, 34, 40, ...), not {depth}")
    return blocks


@MODELS("wrn", "wide_resnet")
def wrn(
    *,
    depth: int,
    width: PositiveInt,
    dropout: Probability = 0.0,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
) -> WideResNet:
    """A wide ResNet of any depth 6n + 4 and any width."""
    return WideResNet(depth, width, dropout=dropout, num_classes=num_classes, in_channels=in_channels)


class BenchmarkBlock(nn.Module):
    """A block whose shortcut, where it changes the width, sees the normalised input, as in the authors' code."""

    def __init__(self, in_width: int, width: int, stride: int, *, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut = nn.Conv2d(in_width, width, 1, stride, bias=False) if in_width != width else None

    def forward(self, x: Tensor) -> Tensor:
        normalised = self.relu1(self.bn1(x))
        out = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(normalised)))))
        return out + (x if self.convShortcut is None else self.convShortcut(normalised))


class BenchmarkGroup(nn.Module):
    """A group of blocks below the name ``layer``."""

    def __init__(self, layer: nn.Sequential) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@checked
class BenchmarkWideResNet(nn.Module):
    """WRN-depth-width of the CIFAR-100 benchmark: images (B, in_channels, H, W) -> logits (B, num_classes).

    The groups' outputs are ``block1`` (H, W), ``block2`` (H/2, W/2) and ``block3`` (H/4, W/4), before normalisation.
    KDError where the depth is not 6n + 4.
    """

    def __init__(
        self,
        depth: int,
        width: PositiveInt,
        *,
        dropout: Probability = 0.0,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 3,
    ) -> None:
        super().__init__()
        blocks, widths = blocks_of(depth), (16 * width, 32 * width, 64 * width)
        block = partial(BenchmarkBlock, dropout=dropout)
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.block1 = BenchmarkGroup(group(block, blocks, 16, widths[0], stride=1))
        self.block2 = BenchmarkGroup(group(block, blocks, widths[0], widths[1], stride=2))
        self.block3 = BenchmarkGroup(group(block, blocks, widths[1], widths[2], stride=2))
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[2], num_classes)
        initialise(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.avgpool(self.relu(self.bn1(x))).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The groups' outputs, and the same normalised by what comes next."""
        return {
            "features": ["block1", "block2", "block3"],
            "preactivations": ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"],
            "norms": ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"],
            "classifier": "fc",
            "last_map": "avgpool:in",
        }


def _register(model: type[nn.Module], depth: int, width: int, what: str, name: str, *aliases: str) -> None:
    @MODELS(name, *aliases)
    def build(*, dropout: Probability = 0.0, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> nn.Module:
        return model(depth, width, dropout=dropout, num_classes=num_classes, in_channels=in_channels)

    build.__name__ = build.__qualname__ = name.replace("-", "_")
    build.__doc__ = f"WRN-{depth}-{width} {what}."


for _depth, _width in NAMED:
    _name = f"wrn-{_depth}-{_width}"
    _register(WideResNet, _depth, _width, "for 32x32 images", _name, f"wide_resnet{_depth}_{_width}")
for _depth, _width in BENCHMARK:
    _register(BenchmarkWideResNet, _depth, _width, "of the CIFAR-100 benchmark", f"wrn-{_depth}-{_width}-benchmark")
