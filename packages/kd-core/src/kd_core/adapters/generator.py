"""DAFL's generator of images, which takes the place of data.

Chen et al., *Data-Free Learning of Student Networks* (DAFL), ICCV 2019 (arXiv 1904.01186); checked against the authors'
code in huawei-noah/Data-Efficient-Model-Compression.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

CHANNELS = 128
EPS = 0.8
"""Of two of the batch norms, as the authors have it: they mean the momentum, but the argument is eps."""


class ImageGenerator(nn.Module):
    """Images (B, C, H, W) for as many samples as a batch (B, ...) has, whose values are not read.

    Noise (B, ``latent``) is drawn from torch's global generator of the batch's device. ``generate`` takes noise.
    """

    def __init__(self, channels: int, height: int, width: int, latent: int) -> None:
        super().__init__()
        self.latent, self.size = latent, (height // 4, width // 4)
        self.linear = nn.Linear(latent, CHANNELS * self.size[0] * self.size[1])
        self.layers = nn.Sequential(
            nn.BatchNorm2d(CHANNELS),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS, eps=EPS),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(CHANNELS, CHANNELS // 2, 3, padding=1),
            nn.BatchNorm2d(CHANNELS // 2, eps=EPS),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(CHANNELS // 2, channels, 3, padding=1),
            nn.Tanh(),
            nn.BatchNorm2d(channels, affine=False),
        )

    def forward(self, batch: Tensor) -> Tensor:
        return self.generate(torch.randn(len(batch), self.latent, device=batch.device))

    def generate(self, noise: Tensor) -> Tensor:
        """The images (B, C, H, W) that noise (B, latent) becomes."""
        images: Tensor = self.layers(self.linear(noise).unflatten(1, (CHANNELS, *self.size)))
        return images


@ADAPTERS("image_generator")
def image_generator(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, latent: PositiveInt = 100
) -> nn.Module:
    """DAFL's generator: images (B, C, H, W) like those of a batch in number and shape, made of ``latent`` numbers each.

    Two upsamplings with convolutions and batch norm, the last of which normalises the images: they are what a model
    takes, already normalised. The batch's own pixels are not read. Noise comes from torch's global generator.
    KDError where height or width is not a multiple of 4.
    Chen et al., ICCV 2019 (arXiv 1904.01186); checked against huawei-noah/Data-Efficient-Model-Compression.
    """
    (batch,) = tensors("image_generator", inputs, match)
    if match is not None or out_features is not None:
        raise KDError("image_generator makes images like its input: it takes neither match nor out_features")
    _, channels, height, width = feature_map("image_generator", batch).shape
    if height % 4 or width % 4:
        raise KDError(f"image_generator makes images whose sides are multiples of 4, not {shape(batch)}")
    return ImageGenerator(channels, height, width, latent)
