"""RandAugment as FixMatch and MLKD have it: two changes of an image at random strengths, and a grey square.

Cubuk et al. (arXiv 1909.13719); Sohn et al., FixMatch, NeurIPS 2020 (arXiv 2001.07685). The operations and their ranges
are those of Jin-Ying/Multi-Level-Logit-Distillation, by Pillow as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from kd_core.data.rng import CounterRNG
from kd_core.errors import KDError
from kd_vision.data.augment import AUGMENTATIONS, Pixels, Probability

GREY = (125, 123, 114)
"""The mean colour of images, which hides a square."""


def warp(image: Image.Image, *matrix: float) -> Image.Image:
    """An affine change of coordinates: (x, y) of the result is taken from (ax + by + c, dx + ey + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


CHANGES: tuple[tuple[Callable[[Any, float], Any], float, float], ...] = (
    (lambda image, _: ImageOps.autocontrast(image), 0, 1),
    (lambda image, factor: ImageEnhance.Brightness(image).enhance(factor), 0.05, 0.95),
    (lambda image, factor: ImageEnhance.Color(image).enhance(factor), 0.05, 0.95),
    (lambda image, factor: ImageEnhance.Contrast(image).enhance(factor), 0.05, 0.95),
    (lambda image, _: ImageOps.equalize(image), 0, 1),
    (lambda image, _: image, 0, 1),
    (lambda image, bits: ImageOps.posterize(image, int(bits)), 4, 8),
    (lambda image, degrees: image.rotate(degrees), -30, 30),
    (lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor), 0.05, 0.95),
    (lambda image, slope: warp(image, 1, slope, 0, 0, 1, 0), -0.3, 0.3),
    (lambda image, slope: warp(image, 1, 0, 0, slope, 1, 0), -0.3, 0.3),
    (lambda image, threshold: ImageOps.solarize(image, int(threshold)), 0, 256),
    (lambda image, share: warp(image, 1, 0, share * image.width, 0, 1, 0), -0.3, 0.3),
    (lambda image, share: warp(image, 1, 0, 0, 0, 1, share * image.height), -0.3, 0.3),
)
"""Functions of (image, strength), with the range of the strength."""


@AUGMENTATIONS("rand_augment")
def rand_augment(images: Tensor, draws: CounterRNG, *, count: Pixels = 2, cutout: Probability = 0.5) -> Tensor:
    """``count`` of 14 changes in colour or shape, and a grey square with a side of up to ``cutout`` of the width."""
    if images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise KDError(f"rand_augment takes images of uint8 in grey or RGB, not {images.dtype} {tuple(images.shape)}")
    chosen = [(draws.integers(len(CHANGES)), draws.uniform()) for _ in range(count)]
    side, left, top = draws.uniform() * cutout, draws.uniform(), draws.uniform()
    changed = [
        _changed(image, [(which[row], strength[row]) for which, strength in chosen])
        for row, image in enumerate(images.numpy())
    ]
    for row, pixels in enumerate(changed):
        _hide(pixels, side[row], left[row], top[row])
    return torch.from_numpy(np.stack(changed))


def _changed(pixels: Any, changes: list[tuple[Any, Any]]) -> Any:
    """An array (C, H, W) after some of CHANGES, each with its strength in [0, 1)."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    for which, strength in changes:
        change, low, high = CHANGES[which]
        image = change(image, low + (high - low) * float(strength))
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def _hide(pixels: Any, side: float, left: float, top: float) -> None:
    """Put a grey square, cut where it leaves the image, into an array (C, H, W); numbers are shares of its sides."""
    channels, height, width = pixels.shape
    first_row, first_column = (
        int(max(0, start * length - side * width / 2)) for start, length in ((top, height), (left, width))
    )
    rows, columns = (
        slice(first, int(min(length, first + side * width)) + 1)
        for first, length in ((first_row, height), (first_column, width))
    )
    colour = GREY if channels == 3 else (round(sum(GREY) / 3),)
    pixels[:, rows, columns] = np.array(colour, np.uint8)[:, None, None]
