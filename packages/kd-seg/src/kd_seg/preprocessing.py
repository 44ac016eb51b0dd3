"""Photos as a trained student takes them, from what lies beside it: the same steps as in evaluation, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kd_core.data.images import read_image, to_rgb
from kd_core.errors import KDError
from kd_seg.data.transforms import Whole

if TYPE_CHECKING:
    from PIL.Image import Image

Images = Tensor | list[Tensor]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, in [0, 1]."""


@dataclass(frozen=True)
class PhotoPreprocessor:
    """Makes photos into the batch that a model takes.

    ``eval_size`` is what the shorter side is scaled to, None where photos keep their size; ``mean`` and ``std``
    normalise channels in [0, 1]; ``white`` is the value of white in files of more than 8 bits.
    """

    eval_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float | None
    device: torch.device

    def __call__(self, images: Any) -> Tensor:
        """(B, 3, h, w) float32 of one photo or a list of them: files, PIL images, or uint8 arrays (H, W, 3).

        KDError for a file that cannot be read, and for a list of photos of several sizes.
        """
        read = [self.read(image) for image in (images if isinstance(images, (list, tuple)) else [images])]
        shapes = sorted({tuple(image.shape) for image in read})
        if len(shapes) != 1:
            message = f"photos differ in size: {shapes[0]} and {shapes[1]}" if shapes else "there is no photo"
            raise KDError(message, hint="give them one by one" if shapes else None)
        batch = normalize(torch.stack(read).to(self.device), (self.mean, self.std))
        assert isinstance(batch, Tensor)
        return batch

    def read(self, image: Any) -> Tensor:
        """One photo, scaled as in evaluation: (3, h, w) uint8 on the CPU."""
        if isinstance(image, (str, Path)):
            image = read_image(Path(image), white=self.white)
        elif isinstance(image, np.ndarray):
            image = from_array(image)
        elif hasattr(image, "mode"):
            image = to_rgb(image, white=self.white)
        else:
            kind = type(image).__name__
            raise KDError(f"a photo is a file, a PIL image or a uint8 array (H, W, 3), not a {kind}")
        seen, _ = Whole(self.eval_size)(image, np.empty((0, 0), np.int16), None)
        return torch.from_numpy(seen.transpose(2, 0, 1).copy())


def from_array(values: np.ndarray[Any, Any]) -> Image:
    """A uint8 array (H, W, 3) as an image; KDError for another one."""
    from PIL import Image

    if values.dtype != np.uint8 or values.ndim != 3 or values.shape[2] != 3:
        raise KDError(f"a photo is a uint8 array (H, W, 3), not {values.dtype} {values.shape}")
    return Image.fromarray(values)


def normalize(images: Images, normalization: Normalization) -> Images:
    """uint8 images -> float32, each channel less its mean and divided by its deviation, both of values in [0, 1]."""
    if isinstance(images, list):
        return [normalize(image, normalization) for image in images]  # type: ignore[misc]
    mean, std = constants(normalization, images.device)
    return images.float().sub_(mean).div_(std)  # uint8 less float32 takes 25 times as long as converting first


@lru_cache(maxsize=64)
def constants(normalization: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) each, in 0 .. 255, on the device, made once: a copy to it in every step would wait for it."""
    mean, std = (255 * torch.tensor(values, dtype=torch.float64)[:, None, None] for values in normalization)
    return mean.float().to(device), std.float().to(device)
