"""Random transforms of an image together with its boxes, masks and keypoints, pure functions of (seed, epoch, sample).

An operation is a function ``(sample, chance, *, values...) -> sample`` that takes all its randomness from ``chance``.
Register one with ``@TRANSFORMS("name")`` and name it in ``data.augment``. The annotations of its values are their
schema. What those of this module draw has the distributions of torchvision's ``references/detection``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from kd_core.data.rng import CounterRNG, random_u64
from kd_core.data.spec import MAX_PIXELS, Size, pixels
from kd_core.errors import KDError
from kd_core.registry import Registry
from kd_vision.data.augment import operation
from kd_vision.detection.data.geometry import Sample, cropped, flipped, padded, scaled, window


def _ascending(values: list[float]) -> list[float]:
    if values[0] > values[1]:
        raise PydanticCustomError("ascending", "a range from the smaller number to the larger")
    return values


Number = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Enlargement = Annotated[float, Field(ge=1, le=8)]
"""A factor of an image's sides. The memory of an image grows with its square, to 64 times at 8: SSD's largest is 4."""
Share = Annotated[float, Field(gt=0, le=1)]
Turn = Annotated[float, Field(ge=-0.5, le=0.5)]
Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]
Factors = Annotated[list[Factor], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
Enlargements = Annotated[list[Enlargement], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
Shares = Annotated[list[Share], Field(min_length=2, max_length=2), AfterValidator(_ascending)]
Turns = Annotated[list[Turn], Field(min_length=2, max_length=2), AfterValidator(_ascending)]


class Chance:
    """The random numbers of one operation on one sample: it takes as many as it wants, and moves no other's."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._drawn = 0

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """An array of independent numbers in [0, 1)."""
        count = int(np.prod(shape))
        bits = random_u64(self._key, np.arange(self._drawn, self._drawn + count))
        self._drawn += count
        return ((bits >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def number(self) -> float:
        """A number in [0, 1)."""
        return float(self.uniform(1)[0])

    def within(self, bounds: Sequence[float]) -> float:
        """A number from the first of two bounds to the second."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.number()


Operation = Callable[..., Sample]
TRANSFORMS: Registry[Operation] = Registry("augmentation", "kd.vision.detection.augmentations")
MEAN = [123, 117, 104]
"""The colour, about the mean of ImageNet's pixels, of what an image does not fill."""
MULTI_SCALE = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
"""Pixels of the shorter side, of torchvision's preset ``multiscale``."""
BRIGHTNESS, CONTRAST, HUE = [0.875, 1.125], [0.5, 1.5], [-0.05, 0.05]
CANVAS, JITTER = [1.0, 4.0], [0.1, 2.0]
CROP, RATIO, OVERLAPS = [0.3, 1.0], [0.5, 2.0], [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]
LONGEST = 100
"""Overlaps that are drawn at most for one image; with torchvision's, one in 10^6 images is not done by then."""

PRESETS: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "hflip": [{"op": "flip"}],
    "ssd": [{"op": "colours"}, {"op": "zoom_out"}, {"op": "ssd_crop"}, {"op": "flip"}],
    "ssdlite": [{"op": "ssd_crop"}, {"op": "flip"}],
    "multiscale": [{"op": "multi_scale"}, {"op": "flip"}],
    "lsj": [{"op": "large_scale_jitter"}, {"op": "flip"}],
}
"""Names for lists of operations: torchvision's, from ``references/detection/presets.py``."""


@TRANSFORMS("flip")
def flip(sample: Sample, chance: Chance, *, p: Probability = 0.5) -> Sample:
    """Mirrored left to right with probability ``p``; keypoints of the left become those of the right."""
    return flipped(sample) if chance.number() < p else sample


@TRANSFORMS("colours")
def colours(
    sample: Sample,
    chance: Chance,
    *,
    brightness: Factors = BRIGHTNESS,
    contrast: Factors = CONTRAST,
    saturation: Factors = CONTRAST,
    hue: Turns = HUE,
    p: Probability = 0.5,
) -> Sample:
    """SSD's photometric distortion (arXiv 1512.02325): each change with probability ``p``.

    Brightness first, then contrast, saturation and hue, or contrast after those two, as often; at last an
    exchange of channels. The values are bounds of the factors; ``hue`` those of a turn, 1 being the whole circle.
    """
    from torchvision.transforms.v2 import functional

    happens, shares = chance.uniform(5) < p, chance.uniform(4)
    late, channels = chance.number() < 0.5, chance.uniform(3).argsort()
    changes = [
        ("brightness", functional.adjust_brightness, brightness),
        ("contrast", functional.adjust_contrast, contrast),
        ("saturation", functional.adjust_saturation, saturation),
        ("hue", functional.adjust_hue, hue),
    ]
    image = sample.image
    for number in (0, 2, 3, 1) if late else (0, 1, 2, 3):
        _, change, (low, high) = changes[number]
        if happens[number]:
            image = change(image, low + (high - low) * float(shares[number]))
    if happens[4]:
        image = _exchanged(image, channels.tolist())
    return replace(sample, image=image)


def _exchanged(image: Any, channels: list[int]) -> Any:
    from PIL import Image

    parts = image.split()
    return Image.merge("RGB", [parts[channel] for channel in channels])


@TRANSFORMS("zoom_out")
def zoom_out(
    sample: Sample,
    chance: Chance,
    *,
    scale: Enlargements = CANVAS,
    fill: Colour = MEAN,
    p: Probability = 0.5,
) -> Sample:
    """SSD's expansion (arXiv 1512.02325): with probability ``p`` somewhere on a canvas of the colour ``fill``.

    The canvas is larger by a factor within ``scale``.
    """
    if chance.number() >= p:
        return sample
    by = chance.within(scale)
    size = [min(int(side * by), max(MAX_PIXELS, side)) for side in sample.size]
    top, left = (
        int((room - side) * share) for room, side, share in zip(size, sample.size, chance.uniform(2), strict=True)
    )
    return padded(sample, (size[0], size[1]), (top, left), fill)


@TRANSFORMS("ssd_crop")
def ssd_crop(
    sample: Sample,
    chance: Chance,
    *,
    scale: Shares = CROP,
    ratio: Factors = RATIO,
    overlaps: Annotated[list[Probability], Field(min_length=1)] = OVERLAPS,
    trials: Annotated[int, Field(ge=1, le=1000)] = 40,
) -> Sample:
    """SSD's crop (arXiv 1512.02325): a window that overlaps an object by at least one of ``overlaps``, an IoU.

    Which one is drawn; with 1 the image stays whole. The sides of a window are within ``scale`` of the image's, and its
    width over its height within ``ratio``. Objects whose centre is outside are dropped. Where none of ``trials``
    windows will do, another overlap is drawn. An image without objects stays whole.
    """
    for _ in range(LONGEST if len(sample) else 0):
        overlap = overlaps[int(chance.number() * len(overlaps))]
        if overlap >= 1:
            return sample
        boxes = _windows(sample.size, chance.uniform(trials, 4), scale, ratio)
        inside = _centres_inside(sample.boxes, boxes)
        best = np.where(inside, _iou(boxes, sample.boxes), -1).max(1, initial=-1)
        fit = np.flatnonzero(inside.any(1) & (best >= overlap))
        if len(fit):
            left, top, right, bottom = boxes[fit[0]].astype(int).tolist()
            return cropped(sample.take(inside[fit[0]]), (top, left, bottom, right))
    return sample


def _windows(
    size: tuple[int, int], shares: NDArray[np.float64], scale: Sequence[float], ratio: Sequence[float]
) -> NDArray[np.float64]:
    """(n, 4) those of the windows drawn by ``shares`` (trials, 4) that have an area and a fitting ratio."""
    height, width = size
    sides = np.floor((scale[0] + (scale[1] - scale[0]) * shares[:, :2]) * [width, height])
    corner = np.floor(([width, height] - sides) * shares[:, 2:])
    aspect = sides[:, 0] / np.maximum(sides[:, 1], 1)
    fit = (sides >= 1).all(1) & (aspect >= ratio[0]) & (aspect <= ratio[1])
    return np.concatenate([corner, corner + sides], 1)[fit]


def _centres_inside(boxes: NDArray[np.float64], windows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(m, n) whether the centre of each of n boxes lies within each of m windows."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (windows[:, None, :2] < centres) & (centres < windows[:, None, 2:])
    return inside[..., 0] & inside[..., 1]


def _iou(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """(m, n) intersection over union of boxes (m, 4) and (n, 4)."""
    low = np.maximum(left[:, None, :2], right[:, :2])
    both = (np.minimum(left[:, None, 2:], right[:, 2:]) - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (left, right)]
    return both / np.maximum(areas[0][:, None] + areas[1] - both, np.finfo(np.float64).tiny)


@TRANSFORMS("multi_scale")
def multi_scale(
    sample: Sample,
    chance: Chance,
    *,
    sizes: Annotated[list[Pixels], Field(min_length=1)] = MULTI_SCALE,
    max_size: Pixels = 1333,
) -> Sample:
    """Scaled so that the shorter side has one of ``sizes`` pixels, and the longer one at most ``max_size``."""
    shorter = sizes[int(chance.number() * len(sizes))]
    return scaled(sample, _times(sample.size, min(shorter / min(sample.size), max_size / max(sample.size))))


@TRANSFORMS("large_scale_jitter")
def large_scale_jitter(
    sample: Sample,
    chance: Chance,
    *,
    size: Size = 1024,
    scale: Factors = JITTER,
    fill: Colour = MEAN,
) -> Sample:
    """Large-scale jitter (arXiv 2012.07177): scaled, then cut at random and filled up with ``fill`` to ``size``.

    With a factor of 1 the image just fits into ``size``, one number for a square or [height, width]; the factor is
    drawn within ``scale``. The window moves along the image's diagonal. An image of which no object is left is kept.
    """
    want = pixels(size)
    fit = min(room / side for room, side in zip(want, sample.size, strict=True))
    full = _times(sample.size, fit * chance.within(scale))
    share = chance.number()
    top, left = (int(max(side - room, 0) * share) for side, room in zip(full, want, strict=True))
    height, width = map(min, full, want)
    return padded(window(sample, full, (top, left, top + height, left + width)), want, (0, 0), fill)


def _times(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """(height, width) times a factor, rounded down, at least a pixel and at most what images may have."""
    height, width = (min(max(int(side * factor), 1), max(MAX_PIXELS, side)) for side in size)
    return height, width


@dataclass(frozen=True)
class Augmentation:
    """Operations on one sample after another; without ``draws``, or with no operation, it stays as it is."""

    operations: tuple[Operation, ...] = ()

    @property
    def fixed(self) -> bool:
        """Whether a sample is the same in every epoch."""
        return not self.operations

    def __call__(self, sample: Sample, draws: CounterRNG | None) -> Sample:
        """The sample transformed; each operation has random numbers of its own."""
        if draws is not None:
            for transform in self.operations:
                sample = transform(sample, Chance(int(draws.bits()[0])))
        return sample


def parse(value: Any) -> Augmentation:
    """The augmentation a config asks for: a preset, an operation, or a list of those; None like the preset ``none``.

    An operation is a name or ``{op: NAME, values...}``. KDError for unknown names and values.
    """
    operations: list[Operation] = []
    for position, item in enumerate(value if isinstance(value, list) else ["none" if value is None else value]):
        if isinstance(item, str) and item in PRESETS:
            operations += [operation(preset, TRANSFORMS) for preset in PRESETS[item]]
        elif isinstance(item, (str, Mapping)):
            where = f"{position}." if isinstance(value, list) else ""
            operations.append(operation(item, TRANSFORMS, where, tuple(PRESETS)))
        else:
            raise KDError(f"{item!r} is neither a preset, nor the name of an operation, nor {{op: NAME, ...}}")
    return Augmentation(tuple(operations))
