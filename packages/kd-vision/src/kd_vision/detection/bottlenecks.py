"""Bottlenecks of head network distillation: what takes the place of a ResNet's first layer in a split detector.

The part before the bottleneck runs on a device, the rest on a server, and few channels pass between them. A config
puts one in by an edit, ``{replace: backbone.body.layer1, with: !call:kd_vision.detection.bottlenecks.Bottleneck {}}``,
and trains it, and what else it names, towards the maps of the detector without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.ranges import PositiveInt, checked

IN_CHANNELS = 64
"""The channels of a ResNet's stem."""


@checked
class Bottleneck(nn.Module):
    """Eight 2x2 convolutions through ``channels`` channels: (B, 64, H, W) -> (B, out_channels, H, W).

    ``out_channels`` is 256 in place of the first layer of ResNet-50, -101 and -152, and 64 for ResNet-18 and -34. The
    ``encoder`` ends with the narrow map (B, channels, H + 4, W + 4), from which the ``decoder`` goes on. With ``bits``
    what passes between them is rounded in evaluation mode: to float16, or to 256 numbers from its smallest to its
    largest one (Jacob et al., CVPR 2018, arXiv 1712.05877).

    Matsubara and Levorato, *Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged
    Networks*, ICPR 2020 (arXiv 2007.15818). Keys and shapes of the state dict are those of the authors' code,
    yoshitomo-matsubara/hnd-ghnd-object-detectors, as torchdistill has it.
    """

    def __init__(
        self, *, channels: PositiveInt = 3, out_channels: PositiveInt = 256, bits: Literal[8, 16] | None = None
    ) -> None:
        super().__init__()
        widths = (IN_CHANNELS, 64, 256, 64, channels, 64, 128, out_channels, out_channels)
        layers: list[nn.Module] = []
        for number, (narrow, wide) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(narrow, wide, 2, padding=int(number < 4), bias=False), nn.BatchNorm2d(wide)]
            layers += [nn.ReLU(inplace=True)] if number % 2 else []
        end = 8  # the layers up to the fourth convolution
        self.encoder, self.decoder = nn.Sequential(*layers[:end]), nn.Sequential(*layers[end:])
        self.bits = bits

    def forward(self, maps: Tensor) -> Tensor:
        """The decoded maps; KDError for another number of channels than a ResNet's stem gives."""
        if maps.shape[1] != IN_CHANNELS:
            raise KDError(f"a bottleneck takes maps of {IN_CHANNELS} channels, not {maps.shape[1]}")
        narrow = self.encoder(maps)
        if self.bits is not None and not self.training:
            narrow = narrow.half().to(narrow.dtype) if self.bits == 16 else rounded(narrow)
        return self.decoder(narrow)


def rounded(values: Tensor) -> Tensor:
    """Each number as the nearest of 256 at equal distances, 0 among them, from the smallest to the largest."""
    low, high = values.aminmax()
    step = (high - low) / 255
    safe = torch.where(step > 0, step, 1.0)
    zero = (-low / safe).clamp(0, 255).trunc()
    return torch.where(step > 0, ((zero + values / safe).clamp(0, 255).round() - zero) * safe, values)
