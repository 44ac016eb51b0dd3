"""An image and its objects, mirrored, scaled and cut together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.errors import KDError

if TYPE_CHECKING:
    from PIL.Image import Image

SMALLEST = 1.0
"""Pixels of width and height below which a box that was scaled or cut is dropped, as torchvision's
``SanitizeBoundingBoxes`` does."""
OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
"""Words of a keypoint's name that change places when an image is mirrored."""


@dataclass(frozen=True, eq=False)
class Sample:
    """An RGB image of H x W pixels and its n objects, a row of each array an object.

    ``boxes`` (n, 4) float64 are x1, y1, x2, y2 in pixels of the image, which transforms compute in double precision so
    that mirroring twice is the identity; ``labels`` (n,) int64; ``areas`` (n,) float64 in pixels; ``crowds`` (n,) bool;
    ``masks`` (n, H, W) uint8 of 0 and 1; ``keypoints`` (n, K, 3) float64 x, y, visibility, all 0 where a point is not
    to be seen. ``mirror`` (K,) int64 says which keypoint takes the place of each in the mirror.
    """

    image: Image
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    masks: NDArray[np.uint8] | None = None
    keypoints: NDArray[np.float64] | None = None
    mirror: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return self.image.height, self.image.width

    def take(self, chosen: NDArray[np.bool_]) -> Sample:
        """The image with some of its objects."""
        if chosen.all():
            return self
        return replace(
            self,
            boxes=self.boxes[chosen],
            labels=self.labels[chosen],
            areas=self.areas[chosen],
            crowds=self.crowds[chosen],
            masks=None if self.masks is None else self.masks[chosen],
            keypoints=None if self.keypoints is None else self.keypoints[chosen],
        )


def flipped(sample: Sample) -> Sample:
    """The sample with left and right exchanged: of keypoints such as ``left_eye`` the names, too."""
    from PIL.Image import Transpose

    width = sample.image.width
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = width - sample.boxes[:, [2, 0]]
    keypoints = sample.keypoints
    if keypoints is not None and keypoints.size:
        assert sample.mirror is not None
        keypoints = keypoints[:, sample.mirror]
        keypoints[..., 0] = np.where(keypoints[..., 2] > 0, width - keypoints[..., 0], 0)
    return replace(
        sample,
        image=sample.image.transpose(Transpose.FLIP_LEFT_RIGHT),
        boxes=boxes,
        masks=None if sample.masks is None else sample.masks[..., ::-1],
        keypoints=keypoints,
    )


def mirror_of(names: Sequence[str]) -> NDArray[np.int64]:
    """(K,) which keypoint is where each was when the image is mirrored: ``left_eye`` where ``right_eye`` was.

    KDError where a keypoint of one side has none on the other.
    """
    places = {name: position for position, name in enumerate(names)}
    mirror = []
    for name in names:
        other = _other_side(name)
        if other not in places:
            hint = f"name the other one {other!r}, or leave `flip` out of data.augment"
            raise KDError(f"keypoint {name!r} has no other side to change places with in a mirrored image", hint=hint)
        mirror.append(places[other])
    return np.array(mirror, np.int64)


def _other_side(name: str) -> str:
    """``left_eye`` -> ``right_eye``; a name without a side stays. Words are told apart by ``_``, ``-`` and blanks."""
    for mark in ("_", "-", " "):
        words = name.split(mark)
        turned = [_like(word, OTHER_SIDE[word.lower()]) if word.lower() in OTHER_SIDE else word for word in words]
        if turned != words:
            return mark.join(turned)
    return name


def _like(word: str, other: str) -> str:
    """``other`` in capital letters where ``word`` has them."""
    return other.upper() if word.isupper() else other.capitalize() if word.istitle() else other


def scaled(sample: Sample, size: tuple[int, int]) -> Sample:
    """The sample scaled to ``size`` (height, width): see :func:`window`."""
    return window(sample, size, (0, 0, *size))


def cropped(sample: Sample, box: tuple[int, int, int, int]) -> Sample:
    """The part ``box`` (top, left, bottom, right) of a sample: see :func:`window`."""
    return window(sample, sample.size, box)


def window(sample: Sample, full: tuple[int, int], box: tuple[int, int, int, int]) -> Sample:
    """The part ``box`` (top, left, bottom, right) of a sample scaled to ``full`` (height, width), bilinear.

    Each pixel of a mask has the value under its centre. Boxes are cut at the border, and where there are masks, a box
    that was cut is made as small as the part of its mask that is left. Objects of which less than :data:`SMALLEST`, or
    no pixel of the mask, remains are dropped; keypoints outside become invisible. Areas shrink as their boxes do.
    """
    (height, width), (top, left, bottom, right) = sample.size, box
    by = np.array([full[1] / width, full[0] / height])
    whole = sample.boxes * np.tile(by, 2) - np.array([left, top, left, top])
    boxes = whole.clip(0, np.tile([right - left, bottom - top], 2))
    masks = None
    if sample.masks is not None:
        rows, columns = (under(have, want) for have, want in zip(sample.size, full, strict=True))
        masks = sample.masks[:, rows[top:bottom]][:, :, columns[left:right]]
        boxes = _tightened(boxes, (boxes != whole).any(1), masks)
    areas = sample.areas * by.prod() * _area(boxes) / np.maximum(_area(whole), np.finfo(np.float64).tiny)
    moved = replace(
        sample,
        image=_pixels(sample.image, full, box),
        boxes=boxes,
        areas=areas,
        masks=masks,
        keypoints=None if sample.keypoints is None else _moved(sample.keypoints, by, box),
    )
    left_over = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST).all(1)
    return moved.take(left_over if masks is None else left_over & masks.any((1, 2)))


def _pixels(image: Image, full: tuple[int, int], box: tuple[int, int, int, int]) -> Image:
    """The part ``box`` of an image scaled to ``full``; only that part is computed."""
    from PIL.Image import Resampling

    top, left, bottom, right = box
    if full == (image.height, image.width):
        return image if box == (0, 0, *full) else image.crop((left, top, right, bottom))
    down, across = image.height / full[0], image.width / full[1]
    seen = (left * across, top * down, min(right * across, image.width), min(bottom * down, image.height))
    return image.resize((right - left, bottom - top), Resampling.BILINEAR, seen)


def under(have: int, want: int) -> NDArray[np.int64]:
    """(want,) the pixels of a line of ``have`` that lie under the centres of one scaled to ``want``."""
    return np.minimum(((np.arange(want) + 0.5) * (have / want)).astype(np.int64), have - 1)


def _tightened(boxes: NDArray[np.float64], cut: NDArray[np.bool_], masks: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The boxes (n, 4), those that were ``cut`` no larger than what is left of their masks (n, H, W)."""
    boxes = boxes.copy()
    for row in cut.nonzero()[0]:
        ends = [np.flatnonzero(masks[row].any(axis)) for axis in (0, 1)]  # columns, rows
        if not len(ends[0]):
            boxes[row] = 0
            continue
        boxes[row, :2] = np.maximum(boxes[row, :2], [line[0] for line in ends])
        boxes[row, 2:] = np.minimum(boxes[row, 2:], [line[-1] + 1 for line in ends])
    return boxes


def _moved(
    keypoints: NDArray[np.float64], by: NDArray[np.float64], box: tuple[int, int, int, int]
) -> NDArray[np.float64]:
    """Keypoints (n, K, 3) scaled by (x, y) and seen through ``box``; 0, 0, 0 outside."""
    top, left, bottom, right = box
    moved = keypoints.copy()
    moved[..., :2] = moved[..., :2] * by - np.array([left, top])
    x, y = moved[..., 0], moved[..., 1]
    moved[(x < 0) | (y < 0) | (x > right - left) | (y > bottom - top) | (moved[..., 2] == 0)] = 0
    return moved


def padded(sample: Sample, size: tuple[int, int], place: tuple[int, int], fill: Sequence[int]) -> Sample:
    """The sample on a canvas of ``size`` (height, width) and of the colour ``fill``, its corner at (top, left)."""
    from PIL import Image

    if size == sample.size:
        return sample
    canvas = Image.new("RGB", size[::-1], tuple(fill))
    top, left = place
    canvas.paste(sample.image, (left, top))
    masks, keypoints = sample.masks, sample.keypoints
    if masks is not None:
        under_canvas = np.zeros((len(masks), *size), np.uint8)
        under_canvas[:, top : top + masks.shape[1], left : left + masks.shape[2]] = masks
        masks = under_canvas
    if keypoints is not None:
        keypoints = keypoints + np.array([left, top, 0]) * (keypoints[..., 2:] > 0)
    boxes = sample.boxes + np.array([left, top, left, top])
    return replace(sample, image=canvas, boxes=boxes, masks=masks, keypoints=keypoints)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) the areas of boxes (n, 4)."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
