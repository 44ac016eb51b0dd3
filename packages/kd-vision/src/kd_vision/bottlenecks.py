"""Bottlenecks in the place of a classifier's first layers, for head network distillation.

The part before the bottleneck runs on a device, the rest on a server, and few channels pass between them. A config
puts one in by an edit and makes what it replaces the identity, as ``kd-vision migrate`` writes it.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.ranges import PositiveInt, checked

DECODERS: dict[str, tuple[int, tuple[tuple[int, int], ...], int]] = {
    "resnet": (1, ((512, 1), (512, 1), (512, 0), (512, 0)), 1),
    "densenet": (1, ((512, 1), (512, 1), (256, 0), (256, 0), (256, 0)), 2),
    "inception": (0, ((256, 1), (256, 0), (192, 0)), 1),
}
"""By family: the padding of the stem, widths and paddings of the decoder's convolutions, the stride of its pooling."""


@checked
class FirstLayers(nn.Module):
    """A stem, a narrow map and a decoder of 2x2 convolutions: images (B, 3, H, W) -> maps like those of the layers.

    ``family`` says whose first layers it takes the place of: of ResNet-50 to -152 up to ``layer2``, of DenseNet-169 and
    -201 up to ``features.transition2``, of Inception v3 up to ``maxpool2``. The ``encoder`` ends with the narrow map of
    ``channels`` channels. KDError for images of another number of channels than 3.

    Matsubara, Callegaro, Baidya, Levorato and Singh, *Head Network Distillation*, IEEE Access 2020
    (doi 10.1109/ACCESS.2020.3039714). Keys and shapes of the state dict are those of yoshitomo-matsubara/sc2-benchmark
    with ``bottleneck_idx`` 7.
    """

    def __init__(self, *, family: Literal["resnet", "densenet", "inception"], channels: PositiveInt = 12) -> None:
        super().__init__()
        padding, widths, stride = DECODERS[family]
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3 * padding, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=padding),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.Conv2d(64, channels, 2, stride=2, padding=1, bias=False),
        )
        layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        for number, (width, around) in enumerate(widths):
            layers.append(
                nn.Conv2d(channels if not number else widths[number - 1][0], width, 2, padding=around, bias=False)
            )
            if number < len(widths) - 1:
                layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        self.decoder = nn.Sequential(*layers, nn.AvgPool2d(2, stride=stride))

    def forward(self, images: Tensor) -> Tensor:
        """The decoded maps."""
        if images.shape[1] != 3:
            raise KDError(f"a bottleneck takes images of 3 channels, not {images.shape[1]}")
        return self.decoder(self.encoder(images))
