"""A U-Net to train from scratch."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.models.registry import MODELS
from kd_core.ranges import PositiveInt, checked


@checked
class UNet(nn.Module):
    """``depth`` levels of two 3x3 convolutions, each half as high and wide as the one above, and the way back up.

    Images (B, 3, H, W) of any size -> ``{"out": (B, num_classes, H, W)}``. The first level has ``width`` channels, each
    further one twice those above. The levels are ``down.0``, ``down.1``, ... and, from the lowest, ``up.0``, ...
    """

    def __init__(self, *, width: PositiveInt, depth: PositiveInt, num_classes: PositiveInt) -> None:
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.down = nn.ModuleList(convolutions(low, high) for low, high in zip([3, *widths], widths, strict=False))
        below = widths[::-1]
        self.up = nn.ModuleList(convolutions(low + high, high) for low, high in pairwise(below))
        self.classifier = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = []
        for level, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2, ceil_mode=True) if level else x)
            maps.append(x)
        for up, beside in zip(self.up, maps[-2::-1], strict=True):
            x = up(torch.cat([F.interpolate(x, beside.shape[-2:]), beside], 1))
        return {"out": self.classifier(x)}


def convolutions(in_width: int, width: int) -> nn.Sequential:
    """Twice a 3x3 convolution, normalisation and ReLU: (B, in_width, H, W) -> (B, width, H, W)."""
    return nn.Sequential(
        *(
            layer
            for before in (in_width, width)
            for layer in (
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
        )
    )


@MODELS("unet")
def unet(*, width: PositiveInt = 16, depth: PositiveInt = 4, num_classes: PositiveInt = 21) -> UNet:
    """U-Net (Ronneberger et al., MICCAI 2015, arXiv 1505.04597), padded and with batch norm; any size of image."""
    return UNet(width=width, depth=depth, num_classes=num_classes)
