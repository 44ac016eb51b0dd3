"""Transforms of an image and its mask together, pure functions of (seed, epoch, sample).

The recipe of training is torchvision's for segmentation: resize at random, flip, crop with padding. The
pixels are PIL's, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from kd_core.data.rng import CounterRNG
from kd_core.data.spec import MAX_PIXELS
from kd_seg.data.sources import VOID
from kd_seg.data.spec import Jitter

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]
Mask = NDArray[np.int16]


class PairTransform(Protocol):
    """A transform of an RGB image and its mask (H, W) together, into pixels (h, w, 3) and a mask.

    ``draws`` are the sample's random numbers, None where nothing is left to chance.
    """

    def __call__(self, image: Image, mask: Mask, draws: CounterRNG | None) -> tuple[Pixels, Mask]: ...


@dataclass(frozen=True)
class Whole:
    """An image for evaluation: as it is or, with ``size``, its shorter side scaled to that. Its mask stays as it is."""

    size: int | None = None

    def __call__(self, image: Image, mask: Mask, draws: CounterRNG | None) -> tuple[Pixels, Mask]:
        """Pixels (h, w, 3) and the mask (H, W)."""
        if self.size is not None:
            height, width = scaled(image, self.size)
            image = window(image, (height, width), (0, 0, height, width))
        return np.asarray(image), mask


@dataclass(frozen=True)
class Crop:
    """An image for training: ``crop`` (height, width) pixels of it, scaled.

    The shorter side becomes ``size`` times something within ``scale``; with probability ``flip`` left and right change
    places; a window is cut at random. Where the image is smaller than the window it is padded at the right and at the
    bottom, with black and, in the mask, VOID. ``jitter`` changes the colours of what is not padding. Without draws, or
    without ``random``, the shorter side becomes ``size``, the window is the middle, and nothing else happens.
    """

    size: int
    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: Jitter | None = None
    random: bool = True

    def __call__(self, image: Image, mask: Mask, draws: CounterRNG | None) -> tuple[Pixels, Mask]:
        """Pixels (*crop, 3) and a mask (*crop)."""
        draws = draws if self.random else None
        full, (top, left), flipped = self._window(image, draws)
        height, width = (min(pair) for pair in zip(full, self.crop, strict=True))
        if flipped:
            left = full[1] - left - width
        box = (top, left, top + height, left + width)
        seen = window(image, full, box)
        if draws is not None and self.jitter is not None:
            seen = jittered(seen, self.jitter, draws)
        step = -1 if flipped else 1
        pixels, labels = np.zeros((*self.crop, 3), np.uint8), np.full(self.crop, VOID, np.int16)
        pixels[:height, :width] = np.asarray(seen)[:, ::step]
        labels[:height, :width] = mask_window(mask, full, box)[:, ::step]
        return pixels, labels

    def _window(self, image: Image, draws: CounterRNG | None) -> tuple[tuple[int, int], tuple[int, int], bool]:
        """The size that the image is scaled to, the window's top left corner after flipping, and whether it is flipped.

        Four draws each, whatever this crop's values are, so that none of them moves what another decides.
        """
        if draws is None:
            full = scaled(image, self.size)
            top, left = (max(have - want, 0) // 2 for have, want in zip(full, self.crop, strict=True))
            return full, (top, left), False
        chance = [float(draws.uniform()[0]) for _ in range(4)]
        low, high = (max(int(self.size * factor), 1) for factor in self.scale)
        full = scaled(image, low + int(chance[0] * (high - low + 1)))
        spare = (max(have - want, 0) + 1 for have, want in zip(full, self.crop, strict=True))
        top, left = (int(share * room) for share, room in zip(chance[2:], spare, strict=True))
        return full, (top, left), chance[1] < self.flip


def scaled(image: Image, shorter: int) -> tuple[int, int]:
    """(height, width) of an image scaled so that its shorter side has that many pixels, as torchvision rounds it."""
    width, height = image.size
    longer = min(int(shorter * max(width, height) / min(width, height)), max(MAX_PIXELS, shorter))
    return (shorter, longer) if height <= width else (longer, shorter)


def window(image: Image, full: tuple[int, int], box: tuple[int, int, int, int]) -> Image:
    """The part ``box`` (top, left, bottom, right) of ``image`` scaled to ``full`` (height, width), bilinear.

    Its pixels are those of the whole image scaled. PIL's own ``box`` gives others: it places pixels with the precision
    of float32, and may scale lines and columns in the other order, by which one pixel in ten would differ by 1.
    """
    from PIL.Image import Resampling

    width, height = image.size
    top, left, bottom, right = box
    if full[0] >= height and full[1] >= width and full != (height, width):
        return _enlarged(image, full, box)
    if full != (height, width):
        image = image.resize((full[1], full[0]), Resampling.BILINEAR)
    return image.crop((left, top, right, bottom))


def _enlarged(image: Image, full: tuple[int, int], box: tuple[int, int, int, int]) -> Image:
    """:func:`window` of a larger image: columns and then rows, as PIL does it, without what the window does not see.

    Only the rows that it is computed from are made wider, and only its columns higher: at twice the size of VOC's
    images that takes two fifths of the time of scaling the whole.
    """
    from PIL.Image import Resampling

    width, height = image.size
    top, left, bottom, right = box
    share = height / full[0]
    first, last = max(int(top * share) - 2, 0), min(int(bottom * share) + 3, height)
    rows = image.crop((0, first, width, last)).resize((full[1], last - first), Resampling.BILINEAR)
    columns = rows.crop((left, -first, right, height - first))  # black where nothing is looked at
    return columns.resize((right - left, full[0]), Resampling.BILINEAR).crop((0, top, right - left, bottom))


def mask_window(mask: Mask, full: tuple[int, int], box: tuple[int, int, int, int]) -> Mask:
    """The part ``box`` of a mask scaled to ``full``: each pixel has the class that lies under its centre."""
    top, left, bottom, right = box
    rows, columns = (under(have, want) for have, want in zip(mask.shape, full, strict=True))
    return mask[rows[top:bottom]][:, columns[left:right]]


def under(have: int, want: int) -> NDArray[np.int64]:
    """(want,) the pixels of a line of ``have`` that lie under the centres of one scaled to ``want``.

    Where a centre lies between two pixels, rounding decides; the steps are added up one by one as PIL does it.
    """
    steps = np.full(want, have / want)
    steps[0] /= 2
    return np.minimum(np.add.accumulate(steps).astype(np.int64), have - 1)


def jittered(image: Image, jitter: Jitter, draws: CounterRNG) -> Image:
    """Other colours, as torchvision's ColorJitter draws them: the four changes in an order of their own for each image.

    Eight draws are made whatever ``jitter`` says, so that one of its values moves no other.
    """
    from torchvision.transforms.v2 import functional

    share = [float(draws.uniform()[0]) for _ in range(8)]
    strengths = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    changes = (
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    )
    for which in sorted(range(4), key=lambda change: share[4 + change]):
        strength = strengths[which]
        if strength and which < 3:
            low = max(1 - strength, 0.0)
            image = changes[which](image, low + share[which] * (1 + strength - low))
        elif strength:
            image = changes[which](image, (2 * share[which] - 1) * strength)
    return image
