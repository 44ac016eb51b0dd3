"""Densely connected networks for 32x32 images (Huang et al., CVPR 2017, arXiv 1608.06993): DenseNet-BC.

Module names, and so state dicts, are those of torchdistill's zoo: weights published for it load here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, Probability, checked

NAMED = ((12, 100), (24, 250), (40, 190))
"""(growth, depth) of the networks in the paper's table 2; ``densenet-bc`` builds every other one."""
BOTTLENECK = 4
"""Width of a layer's 1x1 convolution, in growth rates."""


class DenseLayer(nn.Module):
    """One layer of a block: all maps so far, as a list -> its own (B, growth, H, W).

    With ``memory_efficient`` the concatenation and what follows up to the 1x1 convolution are computed again in the
    backward pass instead of kept (Pleiss et al., arXiv 1707.06990). Gradients and running statistics stay the same.
    """

    def __init__(self, in_width: int, growth: int, *, dropout: float, memory_efficient: bool) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_width, BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(BOTTLENECK * growth, growth, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.memory_efficient = memory_efficient

    def bottleneck(self, *maps: Tensor) -> Tensor:
        """The bottleneck features of all maps so far, concatenated: (B, 4 * growth, H, W)."""
        return self.conv1(self.relu1(self.norm1(torch.cat(maps, 1))))

    def forward(self, maps: list[Tensor]) -> Tensor:
        if self.memory_efficient and self.training and torch.is_grad_enabled():
            again = (nullcontext(), statistics_kept(self.norm1))
            x = checkpoint(self.bottleneck, *maps, use_reentrant=False, context_fn=lambda: again)
        else:
            x = self.bottleneck(*maps)
        return self.dropout(self.conv2(self.relu2(self.norm2(x))))


@contextmanager
def statistics_kept(norm: nn.BatchNorm2d) -> Iterator[None]:
    """Inside, running statistics change in copies only: the batch was counted when it was first seen."""
    buffers = dict(norm.named_buffers())
    for name, value in buffers.items():
        setattr(norm, name, value.clone())
    try:
        yield
    finally:
        for name, value in buffers.items():
            setattr(norm, name, value)


class DenseBlock(nn.ModuleDict):
    """``layers`` layers, each of which sees all maps before it: (B, in, H, W) -> (B, in + layers * growth, H, W)."""

    def __init__(self, layers: int, in_width: int, growth: int, *, dropout: float, memory_efficient: bool) -> None:
        super().__init__()
        for number in range(layers):
            self[f"denselayer{number + 1}"] = DenseLayer(
                in_width + number * growth, growth, dropout=dropout, memory_efficient=memory_efficient
            )

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.values():
            maps.append(layer(maps))
        return torch.cat(maps, 1)


def transition(width: int) -> nn.Sequential:
    """Half the maps at half the resolution: (B, width, H, W) -> (B, width // 2, H // 2, W // 2)."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(width, width // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


@checked
class DenseNet(nn.Module):
    """DenseNet-BC of three blocks: images (B, in_channels, H, W) -> logits (B, num_classes).

    ``depth`` is 6n + 4, ``growth`` the maps each layer adds (k in the paper). The blocks' outputs are
    ``features.denseblock1`` (H, W), ``features.denseblock2`` (H/2, W/2) and ``features.denseblock3`` (H/4, W/4). H and
    W are at least 4; the paper's are 32. KDError for another depth.
    """

    def __init__(
        self,
        growth: PositiveInt,
        depth: int,
        *,
        dropout: Probability = 0.0,
        memory_efficient: bool = False,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 3,
    ) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 6)
        if rest or layers < 1:
            raise KDError(f"a DenseNet-BC has depth 6n + 4 (10, 16, 22, 28, 34, 40, ..., 100, ...), not {depth}")
        width = 2 * growth
        self.features = nn.Sequential()
        self.features.add_module("conv0", nn.Conv2d(in_channels, width, 3, padding=1, bias=False))
        for number in (1, 2, 3):
            block = DenseBlock(layers, width, growth, dropout=dropout, memory_efficient=memory_efficient)
            self.features.add_module(f"denseblock{number}", block)
            width += layers * growth
            if number < 3:
                self.features.add_module(f"transition{number}", transition(width))
                width //= 2
        self.features.add_module("norm5", nn.BatchNorm2d(width))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(width, num_classes)
        self._initialise()

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.relu(self.features(x))).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The blocks' outputs, and the same normalised by what comes next."""
        return {
            "features": [f"features.denseblock{number}" for number in (1, 2, 3)],
            "preactivations": ["features.transition1.norm", "features.transition2.norm", "features.norm5"],
            "norms": ["features.transition1.norm", "features.transition2.norm", "features.norm5"],
            "classifier": "classifier",
            "last_map": "avgpool:in",
        }

    def _initialise(self) -> None:
        """He initialisation of convolutions by fan-in (arXiv 1502.01852), a classifier without bias at first."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)


@MODELS("densenet-bc")
def densenet_bc(
    *,
    growth: PositiveInt,
    depth: int,
    dropout: Probability = 0.0,
    memory_efficient: bool = False,
    num_classes: PositiveInt = 10,
    in_channels: PositiveInt = 3,
) -> DenseNet:
    """A DenseNet-BC of any growth and any depth 6n + 4."""
    return DenseNet(
        growth,
        depth,
        dropout=dropout,
        memory_efficient=memory_efficient,
        num_classes=num_classes,
        in_channels=in_channels,
    )


def _register(growth: int, depth: int) -> None:
    @MODELS(f"densenet-bc-k{growth}-d{depth}", f"densenet_bc_k{growth}_depth{depth}")
    def build(
        *,
        dropout: Probability = 0.0,
        memory_efficient: bool = False,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 3,
    ) -> DenseNet:
        return DenseNet(
            growth,
            depth,
            dropout=dropout,
            memory_efficient=memory_efficient,
            num_classes=num_classes,
            in_channels=in_channels,
        )

    build.__name__ = build.__qualname__ = f"densenet_bc_k{growth}_d{depth}"
    build.__doc__ = f"DenseNet-BC with growth {growth} and depth {depth} for 32x32 images."


for _growth, _depth in NAMED:
    _register(_growth, _depth)
