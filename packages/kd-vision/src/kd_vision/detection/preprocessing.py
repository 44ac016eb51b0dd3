"""Images as a trained detector takes them: the same steps as in evaluation, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd_core.data.images import read_image, to_rgb
from kd_core.errors import KDError


def images_in_range(images: Any, device: torch.device) -> dict[str, list[Tensor]]:
    """Images (3, H, W) in [0, 1] of any sizes, of one image or a list: files, PIL images, uint8 arrays (H, W, 3).

    The list stands as ``images``: it is what a detector of torchvision is called with. KDError for a file that cannot
    be read.
    """
    rows = images if isinstance(images, (list, tuple)) else [images]
    return {"images": [in_range(pixels_of(image).to(device)) for image in rows]}


def in_range(image: Tensor) -> Tensor:
    """uint8 as float32 in [0, 1]."""
    return image.float().div_(255)


def pixels_of(image: Any) -> Tensor:
    """An image in RGB, as it is: uint8 (3, H, W) on the CPU."""
    if isinstance(image, (str, Path)):
        image = read_image(Path(image))
    elif hasattr(image, "mode"):
        image = to_rgb(image)
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise KDError(f"an image is a file, a PIL image or a uint8 array (H, W, 3), not a {type(image).__name__}")
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())
