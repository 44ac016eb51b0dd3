"""VGG networks with batch norm for 32x32 images, as in the CIFAR-100 benchmark of RepDistiller and mdistiller.

Simonyan & Zisserman, ICLR 2015 (arXiv 1409.1556), with one linear layer. Module names, and so state dicts, are those of
the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, checked
from kd_zoo.resnet import initialise

LAYERS = {8: (1, 1, 1, 1, 1), 11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each of the five blocks, by depth."""
WIDTHS = (64, 128, 256, 512, 512)


def _block(in_width: int, width: int, layers: int) -> nn.Sequential:
    """Convolutions with batch norm, and ReLUs between them: the last one's output is a block's pre-activation."""
    modules: list[nn.Module] = []
    for position in range(layers):
        conv = nn.Conv2d(in_width if position == 0 else width, width, 3, padding=1)
        modules += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    return nn.Sequential(*modules[:-1])


@checked
class CifarVGG(nn.Module):
    """A VGG network: images (B, in_channels, H, W) -> logits (B, num_classes).

    ``relu0`` (H, W), ``relu1`` (H/2, W/2), ``relu2`` (H/4, W/4), ``relu3`` and ``relu4`` (H/8, W/8) are the blocks'
    outputs, ``block0`` to ``block4`` the same before the ReLU. Images of 64 pixels and more are pooled once more before
    the last block.
    """

    def __init__(self, layers: Sequence[int], *, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> None:
        super().__init__()
        blocks = [_block(*sizes) for sizes in zip((in_channels, *WIDTHS[:-1]), WIDTHS, layers, strict=True)]
        self.block0, self.block1, self.block2, self.block3, self.block4 = blocks
        self.pool0, self.pool1, self.pool2, self.pool3 = (nn.MaxPool2d(2) for _ in range(4))
        self.relu0, self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(5))
        self.pool4 = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(WIDTHS[-1], num_classes)
        initialise(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        large = x.shape[2] >= 64
        x = self.pool0(self.relu0(self.block0(x)))
        x = self.pool1(self.relu1(self.block1(x)))
        x = self.pool2(self.relu2(self.block2(x)))
        x = self.relu3(self.block3(x))
        if large:
            x = self.pool3(x)
        return self.classifier(self.pool4(self.relu4(self.block4(x))).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """The outputs of all blocks but the first, and the same before their ReLUs."""
        return {
            "features": ["relu1", "relu2", "relu3", "relu4"],
            "preactivations": ["block1", "block2", "block3", "block4"],
            "norms": ["block1.-1", "block2.-1", "block3.-1", "block4.-1"],
            "classifier": "classifier",
            "last_map": "pool4:in",
        }


def _register(depth: int) -> None:
    @MODELS(f"vgg{depth}")
    def build(*, num_classes: PositiveInt = 10, in_channels: PositiveInt = 3) -> CifarVGG:
        return CifarVGG(LAYERS[depth], num_classes=num_classes, in_channels=in_channels)

    build.__name__ = build.__qualname__ = f"vgg{depth}"
    build.__doc__ = f"VGG-{depth} with batch norm for 32x32 images."


for _depth in LAYERS:
    _register(_depth)
