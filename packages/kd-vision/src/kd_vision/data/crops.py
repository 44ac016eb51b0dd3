"""The random crop of training images: torchvision's pixels and draws, without what its transforms do beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SCALE = (0.08, 1.0)
"""The smallest and the largest share of the image that a crop is."""
RATIO = (3 / 4, 4 / 3)
"""The narrowest and the widest ratio of its width to its height."""
TRIES = 10
"""Crops that are drawn before the centre is taken."""
FLIPPED = 0.5
"""How many crops are mirrored."""


@dataclass(frozen=True)
class ResizedCropFlip:
    """A random crop of an image, resized to (height, width) pixels and mirrored in half of the cases.

    It draws from torch's global generator what ``RandomResizedCrop`` and ``RandomHorizontalFlip`` of torchvision draw,
    and gives bit for bit their images: of PIL images Pillow's resizing, of tensors (C, H, W) torch's with
    antialiasing (Szegedy et al. 2015, *Going deeper with convolutions*, section 6).
    """

    size: tuple[int, int]
    interpolation: str = "bilinear"
    """A way to resize, by torchvision's name."""

    def __call__(self, image: Any) -> Any:
        """The crop, a PIL image or a tensor as the image is one."""
        if isinstance(image, Tensor):
            return self._of_tensor(image)
        from PIL.Image import Resampling, Transpose

        top, left, rows, columns = drawn_crop(image.height, image.width)
        image = image.crop((left, top, left + columns, top + rows))
        if (rows, columns) != self.size:
            image = image.resize(self.size[::-1], Resampling[self.interpolation.upper()])
        return image.transpose(Transpose.FLIP_LEFT_RIGHT) if mirrored() else image

    def _of_tensor(self, image: Tensor) -> Tensor:
        from torchvision.transforms.v2 import InterpolationMode, functional

        top, left, rows, columns = drawn_crop(*image.shape[-2:])
        image = image[..., top : top + rows, left : left + columns]
        image = functional.resize_image(image, list(self.size), InterpolationMode(self.interpolation))
        return image.flip(-1) if mirrored() else image


def drawn_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, rows, columns) of a crop of an image, by torchvision's draws.

    Its share of the image is uniform, and so is the logarithm of its ratio. Where none of ten crops fits into the
    image, it is the largest one in the centre whose ratio is not out of range.
    """
    low, high = (math.log(ratio) for ratio in RATIO)
    for _ in range(TRIES):
        area = height * width * torch.empty(1).uniform_(*SCALE).item()
        ratio = torch.empty(1).uniform_(low, high).exp_().item()
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(torch.randint(height - rows + 1, (1,)).item())
            return top, int(torch.randint(width - columns + 1, (1,)).item()), rows, columns
    rows, columns = height, width
    if width / height < RATIO[0]:
        rows = round(width / RATIO[0])
    elif width / height > RATIO[1]:
        columns = round(height * RATIO[1])
    return (height - rows) // 2, (width - columns) // 2, rows, columns


def mirrored() -> bool:
    """Whether an image is mirrored, by torchvision's draw."""
    return torch.rand(1).item() < FLIPPED
