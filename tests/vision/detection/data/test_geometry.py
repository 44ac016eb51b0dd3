"""Mirroring, scaling and cutting of images with their objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kd_core.errors import KDError
from kd_vision.detection.data.geometry import Sample, cropped, flipped, mirror_of, padded, scaled, under, window

NAMES = ("nose", "left_eye", "right_eye")
PARTS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
KEYPOINTS = ("nose", *(f"{side}_{part}" for part in PARTS for side in ("left", "right")))
"""COCO's, in its order."""


def sample_of(boxes: list[list[float]], size: tuple[int, int]) -> Sample:
    """Noise with boxes, rounded boxes as masks, and three keypoints each: two corners, and one not to be seen."""
    height, width = size
    corners = np.array(boxes, np.float32).reshape(-1, 4).astype(np.float64)
    masks = np.zeros((len(corners), height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, corners.round().astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    points = np.zeros((len(corners), 3, 3))
    points[:, 0, :2], points[:, 1, :2], points[:, :2, 2] = corners[:, :2], corners[:, 2:], 2
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    labels, areas = np.arange(len(corners)), (corners[:, 2:] - corners[:, :2]).prod(1)
    crowds = np.zeros(len(corners), bool)
    return Sample(Image.fromarray(pixels), corners, labels, areas, crowds, masks, points, mirror_of(NAMES))


@st.composite
def samples(draw: st.DrawFn, whole: bool = False) -> Sample:
    """Images of up to 40 pixels with up to four boxes, of whole pixels or not."""
    height, width = draw(st.integers(4, 40)), draw(st.integers(4, 40))

    def interval(side: int) -> tuple[float, float]:
        if whole:
            low = draw(st.integers(0, side - 2))
            return low, draw(st.integers(low + 2, side))
        low = draw(st.floats(0, side - 2, width=32).map(lambda low: low if low > 2**-10 else 0.0))
        return low, min(low + draw(st.floats(2, side, width=32)), side)

    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        (x1, x2), (y1, y2) = interval(width), interval(height)
        boxes.append([x1, y1, x2, y2])
    return sample_of(boxes, (height, width))


def check(sample: Sample) -> None:
    """What every sample keeps: boxes are inside and have an area, and all parts go together."""
    height, width = sample.size
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= [width, height, width, height]).all()
    assert (sample.boxes[:, :2] < sample.boxes[:, 2:]).all()
    assert sample.masks is not None
    assert sample.keypoints is not None
    assert sample.masks.shape == (len(sample), height, width)
    assert {len(part) for part in (sample.labels, sample.areas, sample.crowds, sample.keypoints)} == {len(sample)}
    seen = sample.keypoints[sample.keypoints[..., 2] > 0]
    assert (seen[:, :2] >= 0).all()
    assert (seen[:, :2] <= [width, height]).all()


def bounds(sample: Sample) -> np.ndarray:
    """(n, 4) the smallest boxes around the masks."""
    assert sample.masks is not None
    places = [np.argwhere(mask)[:, ::-1] for mask in sample.masks]
    return np.array([[*place.min(0), *(place.max(0) + 1)] for place in places], float).reshape(-1, 4)


def equal(left: Sample, right: Sample) -> bool:
    arrays = ("boxes", "labels", "areas", "crowds", "masks", "keypoints")
    pixels = np.array_equal(np.asarray(left.image), np.asarray(right.image))
    return pixels and all(np.array_equal(getattr(left, key), getattr(right, key)) for key in arrays)


@given(samples())
@settings(deadline=None, max_examples=50)
def test_mirroring_twice_is_the_identity(sample: Sample) -> None:
    mirrored = flipped(sample)
    check(mirrored)
    once, twice = mirrored.boxes.astype(np.float32), flipped(mirrored)
    assert np.array_equal(once[:, [0, 2]], (sample.image.width - sample.boxes[:, [2, 0]]).astype(np.float32))
    twice = replace(twice, boxes=twice.boxes.astype(np.float32), keypoints=twice.keypoints.astype(np.float32))
    assert equal(twice, replace(sample, boxes=sample.boxes.astype(np.float32)))


@given(samples(whole=True))
@settings(deadline=None, max_examples=30)
def test_boxes_stay_tight_to_masks_in_the_mirror(sample: Sample) -> None:
    assert np.array_equal(bounds(flipped(sample)), flipped(sample).boxes)


@given(samples(whole=True), st.data())
@settings(deadline=None, max_examples=50)
def test_boxes_stay_inside_and_tight_to_masks_in_a_crop(sample: Sample, data: st.DataObject) -> None:
    height, width = sample.size
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    part = cropped(sample, box)
    check(part)
    assert part.size == (box[2] - top, box[3] - left)
    assert np.array_equal(bounds(part), part.boxes)
    assert np.array_equal(np.asarray(part.image), np.asarray(sample.image)[top : box[2], left : box[3]])
    assert np.allclose(part.areas, (part.boxes[:, 2:] - part.boxes[:, :2]).prod(1))
    assert sample.masks is not None
    assert set(part.labels) == {k for k, mask in enumerate(sample.masks) if mask[top : box[2], left : box[3]].any()}


@given(samples(), st.integers(1, 60), st.integers(1, 60), st.data())
@settings(deadline=None, max_examples=50)
def test_boxes_stay_inside_and_close_to_masks_in_a_scaled_window(
    sample: Sample, height: int, width: int, data: st.DataObject
) -> None:
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = top, left, data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    part = window(sample, (height, width), box)
    check(part)
    assert part.size == (box[2] - top, box[3] - left)
    pixel = np.maximum(1, [width / sample.image.width, height / sample.image.height])
    assert (np.abs(bounds(part) - part.boxes) <= np.tile(pixel, 2) + 1).all()


def test_a_box_that_was_cut_is_as_small_as_what_is_left_of_its_mask() -> None:
    """A triangle whose tip is cut off; its box without masks would only be cut."""
    sample = sample_of([[0, 0, 10, 10]], (10, 10))
    masks = np.tril(np.ones((10, 10), np.uint8))[None]  # row y has the columns 0 .. y
    part = cropped(replace(sample, masks=masks), (0, 0, 4, 10))
    assert part.boxes.tolist() == [[0, 0, 4, 4]]
    assert cropped(replace(sample, masks=None), (0, 0, 4, 10)).boxes.tolist() == [[0, 0, 10, 4]]
    assert len(cropped(replace(sample, masks=masks), (0, 5, 4, 10))) == 0  # of the mask nothing is left
    whole = replace(sample_of([[1, 1, 9, 9]], (12, 12)), masks=np.zeros((1, 12, 12), np.uint8))
    whole.masks[0, 4, 4] = 1  # type: ignore[index]
    assert cropped(whole, (0, 0, 11, 11)).boxes.tolist() == [[1, 1, 9, 9]]  # not cut: as the data have it


def test_a_crop_without_objects_keeps_the_image() -> None:
    part = cropped(sample_of([[0, 0, 3, 3]], (10, 10)), (5, 5, 10, 10))
    check(part)
    assert (len(part), part.size, part.boxes.shape) == (0, (5, 5), (0, 4))


def test_less_than_a_pixel_is_dropped() -> None:
    sample = replace(sample_of([[0, 0, 4, 4], [0, 0, 3.9, 8]], (8, 8)), masks=None)
    assert scaled(sample, (2, 2)).labels.tolist() == [0]


def test_keypoints_outside_are_not_seen() -> None:
    sample = sample_of([[2, 3, 8, 9]], (10, 10))
    part = cropped(sample, (0, 0, 6, 10))
    assert part.keypoints is not None
    assert part.keypoints.tolist() == [[[2, 3, 2], [0, 0, 0], [0, 0, 0]]]
    larger = scaled(sample, (20, 30))
    assert larger.keypoints is not None
    assert larger.keypoints[0].tolist() == [[6, 6, 2], [24, 18, 2], [0, 0, 0]]
    assert larger.areas.tolist() == [6 * 36]


def test_names_of_keypoints_change_sides() -> None:
    """COCO's order in the mirror is that of torchvision's reference."""
    assert mirror_of(KEYPOINTS).tolist() == [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]
    assert mirror_of(("Left Wing", "beak", "Right Wing", "R-foot", "L-foot")).tolist() == [2, 1, 0, 4, 3]
    sample = flipped(sample_of([[2, 3, 8, 9]], (10, 10)))
    assert sample.keypoints is not None
    assert sample.keypoints.tolist() == [[[8, 3, 2], [0, 0, 0], [2, 9, 2]]]  # the left eye is the right one
    with pytest.raises(KDError, match="'left_eye' has no other side"):
        mirror_of(("nose", "left_eye"))


@given(samples(), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None, max_examples=30)
def test_a_canvas_moves_everything(sample: Sample, top: int, left: int, bottom: int, right: int) -> None:
    height, width = sample.size
    canvas = padded(sample, (height + top + bottom, width + left + right), (top, left), (1, 2, 3))
    check(canvas)
    back = cropped(canvas, (top, left, top + height, left + width))
    assert np.allclose(back.boxes, sample.boxes)
    assert equal(replace(back, boxes=sample.boxes, areas=sample.areas, keypoints=sample.keypoints), sample)
    if top:
        assert set(np.asarray(canvas.image)[0].reshape(-1, 3).T.tolist()[0]) == {1}


@given(st.integers(1, 60), st.integers(1, 60))
def test_pixels_under_the_centres(have: int, want: int) -> None:
    rows = np.asarray(Image.fromarray(np.arange(have, dtype=np.uint8)[None]).resize((want, 1), 0))[0]
    assert np.abs(under(have, want) - rows).max() <= 1  # where a centre lies between two, either may be
    assert (under(have, want) == rows).mean() > 0.4
    assert under(have, have).tolist() == list(range(have))
