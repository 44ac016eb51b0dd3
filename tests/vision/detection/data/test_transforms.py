"""Random transforms of images with their objects, against torchvision's distributions."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from kd_core.data.rng import CounterRNG
from kd_core.errors import KDError
from kd_vision.detection.data.geometry import Sample, flipped
from kd_vision.detection.data.transforms import (
    PRESETS,
    TRANSFORMS,
    Augmentation,
    Chance,
    colours,
    flip,
    large_scale_jitter,
    multi_scale,
    parse,
    ssd_crop,
    zoom_out,
)

SIZE = (48, 64)
BOXES = np.array([[4, 6, 20, 30], [30, 10, 60, 44], [0, 0, 64, 48]], np.float64)
SMALL = [{"op": "multi_scale", "sizes": [20, 30, 40], "max_size": 50}]


def sample_of(boxes: np.ndarray = BOXES, size: tuple[int, int] = SIZE) -> Sample:
    """Noise with objects that fill their boxes."""
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    image, labels = Image.fromarray(pixels), np.arange(1, len(boxes) + 1)
    return Sample(image, boxes, labels, areas, np.zeros(len(boxes), bool), masks)


def drawn(transform: Any, count: int = 400, sample: Sample | None = None, **values: Any) -> list[Sample]:
    """What the transform makes with other random numbers each time."""
    sample = sample_of() if sample is None else sample
    return [transform(sample, Chance(key * 7919), **values) for key in range(count)]


def pixels(sample: Sample) -> np.ndarray:
    return np.asarray(sample.image).astype(int)


def test_numbers_are_uniform_and_each_its_own() -> None:
    chance = Chance(5)
    first, second = chance.uniform(1000), chance.uniform(10, 100)
    assert second.shape == (10, 100)
    assert len(set(first) & set(second.flatten())) == 0
    assert 0 <= min(first) < 0.01
    assert 0.99 < max(first) < 1
    assert np.array_equal(np.concatenate([first, second.flatten()]), Chance(5).uniform(2000))


def test_half_of_the_images_are_mirrored() -> None:
    sample = sample_of()
    mirrored = [np.array_equal(pixels(each), pixels(flipped(sample))) for each in drawn(flip)]
    assert 0.42 < np.mean(mirrored) < 0.58
    assert all(each is sample for each in drawn(flip, 5, sample, p=0.0))
    assert all(np.array_equal(each.boxes, flipped(sample).boxes) for each in drawn(flip, 5, p=1.0))


def test_colours_change_and_nothing_else_does() -> None:
    sample = sample_of()
    for each in drawn(colours, 20):
        assert each.boxes is sample.boxes or np.array_equal(each.boxes, sample.boxes)
        assert each.size == sample.size
    assert all(np.array_equal(pixels(each), pixels(sample)) for each in drawn(colours, 5, p=0.0))
    unchanged = [np.array_equal(pixels(each), pixels(sample)) for each in drawn(colours)]
    assert 0.01 < np.mean(unchanged) < 0.06  # 2 ** -5, and what an exchange of no channels adds


def test_an_exchange_of_channels_takes_all_orders() -> None:
    still: dict[str, Any] = {"brightness": [1, 1], "contrast": [1, 1], "saturation": [1, 1], "hue": [0, 0], "p": 1.0}
    sample = replace(sample_of(), image=Image.new("RGB", (2, 2), (10, 20, 30)))
    orders = [tuple(pixels(each)[0, 0]) for each in drawn(colours, 300, sample, **still)]
    assert len(set(orders)) == 6
    assert all(sorted(order) == [10, 20, 30] for order in orders)


def test_a_canvas_is_up_to_four_times_as_large() -> None:
    sample = sample_of()
    made = drawn(zoom_out, p=1.0, fill=[1, 2, 3])
    factors = np.array([np.divide(each.size, SIZE).mean() for each in made])
    assert 1 <= factors.min() < 1.1
    assert 3.9 < factors.max() <= 4
    assert 2.3 < factors.mean() < 2.7
    for each in made[:20]:
        left, top = (each.boxes - sample.boxes)[0, :2].astype(int)
        assert np.array_equal(pixels(each)[top : top + SIZE[0], left : left + SIZE[1]], pixels(sample))
        assert pixels(each).sum() == pixels(sample).sum() + 6 * (np.prod(each.size) - np.prod(SIZE))
    assert 0.4 < np.mean([each.size == SIZE for each in drawn(zoom_out)]) < 0.6


def test_a_crop_overlaps_an_object() -> None:
    overlaps = []
    for each in drawn(ssd_crop, 200, overlaps=[0.7]):
        height, width = each.size
        assert 0.3 * SIZE[0] - 1 <= height <= SIZE[0]
        assert 0.5 <= width / height <= 2
        assert len(each) >= 1
        sides = each.boxes[:, 2:] - each.boxes[:, :2]
        overlaps.append(
            max(
                sides.prod(1)
                / (
                    np.prod(each.size)
                    + (BOXES[each.labels - 1, 2:] - BOXES[each.labels - 1, :2]).prod(1)
                    - sides.prod(1)
                )
            )
        )
    assert min(overlaps) >= 0.7
    whole = [each.size == SIZE for each in drawn(ssd_crop, 200, overlaps=[1.0])]
    assert all(whole)


def test_an_image_without_objects_is_not_cropped() -> None:
    sample = sample_of(np.zeros((0, 4)))
    assert all(each is sample for each in drawn(ssd_crop, 20, sample))


@pytest.mark.slow
def test_crops_have_torchvisions_distribution() -> None:
    """The mean size of a crop and the mean number of objects in it, within three standard errors."""
    sample, size = sample_of(), 600
    ours = np.array([[*each.size, len(each)] for each in drawn(ssd_crop, size, replace(sample, masks=None))])
    torch.manual_seed(0)
    transform = v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes(labels_getter=None)])
    theirs = []
    for _ in range(size):
        boxes = tv_tensors.BoundingBoxes(torch.tensor(BOXES), format="XYXY", canvas_size=SIZE)
        image, left = transform(torch.zeros(3, *SIZE), boxes)
        theirs.append([*image.shape[1:], len(left)])
    error = np.sqrt((ours.var(0) + np.var(theirs, 0)) / size)
    assert (np.abs(ours.mean(0) - np.mean(theirs, 0)) < 3 * error).all()


def test_the_shorter_side_is_one_of_the_sizes() -> None:
    made = drawn(multi_scale, 300, sizes=[24, 30, 90], max_size=80)
    assert {each.size for each in made} == {(24, 32), (30, 40), (60, 80)}
    assert all(np.allclose(each.boxes, BOXES * each.size[0] / 48) for each in made)
    assert all(np.allclose(each.areas, sample_of().areas * (each.size[0] / 48) ** 2) for each in made)


def test_large_scale_jitter_has_its_size_and_its_factors() -> None:
    made = drawn(large_scale_jitter, 300, size=[40, 50], fill=[9, 9, 9])
    assert {each.size for each in made} == {(40, 50)}
    assert all(each.masks is not None and each.masks.shape == (len(each), 40, 50) for each in made)
    fit = min(40 / 48, 50 / 64)
    widths = [float(np.ptp(each.boxes[each.labels == 1][:, [0, 2]])) for each in made if 1 in each.labels]
    assert 1.9 < max(widths) / (16 * fit) <= 2
    assert 0 < min(widths) / (16 * fit) < 0.2
    small = drawn(large_scale_jitter, 20, size=[40, 50], scale=[0.1, 0.5], fill=[9, 9, 9])
    assert all((pixels(each)[-1, -1] == 9).all() for each in small)
    assert min(each.boxes[0, :2].tolist() for each in small) >= [0, 0]


def test_large_scale_jitter_keeps_an_image_that_it_leaves_no_object() -> None:
    sample = sample_of(np.array([[0, 0, 4, 4]], np.float64))
    made = drawn(large_scale_jitter, 60, sample, size=32, scale=[3.0, 4.0])
    assert {len(each) for each in made} == {0, 1}


@given(
    st.lists(st.sampled_from([name for name in TRANSFORMS.names() if name != "multi_scale"]), max_size=4),
    st.integers(0, 2**40),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=30)
def test_boxes_stay_inside_and_tight_to_masks_whatever_is_done(names: list[str], seed: int, epoch: int) -> None:
    items = [{"op": name, "size": [40, 50]} if name == "large_scale_jitter" else {"op": name} for name in names]
    made = parse(items)(sample_of(), CounterRNG(seed, epoch, np.array([3])))
    height, width = made.size
    assert made.masks is not None
    assert made.masks.shape == (len(made), height, width)
    assert (made.boxes >= 0).all()
    assert (made.boxes <= [width, height, width, height]).all()
    scale = 1 + 2 * names.count("large_scale_jitter")
    for mask, box in zip(made.masks, made.boxes, strict=True):
        places = np.argwhere(mask)[:, ::-1]
        assert np.abs(np.concatenate([places.min(0), places.max(0) + 1]) - box).max() <= 2 * scale


def test_an_operation_does_not_move_the_numbers_of_the_next() -> None:
    """Another probability of zooming out leaves the same images mirrored."""

    def mirrored(p: float, row: int) -> bool:
        items = [{"op": "zoom_out", "p": p, "scale": [1.0, 1.0]}, "flip"]
        made = parse(items)(sample_of(), CounterRNG(0, 0, np.array([row])))
        return bool((made.boxes != BOXES).any())

    assert [mirrored(0.0, row) for row in range(20)] == [mirrored(1.0, row) for row in range(20)]
    assert len({mirrored(0.0, row) for row in range(20)}) == 2


def test_without_random_numbers_nothing_happens() -> None:
    sample = sample_of()
    assert parse("ssd")(sample, None) is sample
    assert Augmentation().fixed
    assert not parse("hflip").fixed


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_torchvisions_and_can_be_sent_to_a_process(name: str) -> None:
    augmentation = parse(name)
    assert [getattr(each, "__name__", None) or each.func.__name__ for each in augmentation.operations] == {
        "none": [],
        "hflip": ["flip"],
        "ssd": ["colours", "zoom_out", "ssd_crop", "flip"],
        "ssdlite": ["ssd_crop", "flip"],
        "multiscale": ["multi_scale", "flip"],
        "lsj": ["large_scale_jitter", "flip"],
    }[name]
    assert pickle.loads(pickle.dumps(augmentation)) == augmentation


def test_defaults_are_torchvisions() -> None:
    def defaults(function: Any) -> dict[str, Any]:
        parameters = inspect.signature(function).parameters.values()
        return {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}

    distortion = v2.RandomPhotometricDistort()
    assert defaults(colours) == {
        **{key: list(getattr(distortion, key)) for key in ("brightness", "contrast", "saturation", "hue")},
        "p": distortion.p,
    }
    crop, zoom = v2.RandomIoUCrop(), v2.RandomZoomOut()
    assert defaults(ssd_crop) == {
        "scale": [crop.min_scale, crop.max_scale],
        "ratio": [crop.min_aspect_ratio, crop.max_aspect_ratio],
        "overlaps": crop.options,
        "trials": crop.trials,
    }
    assert defaults(zoom_out) == {"scale": list(zoom.side_range), "fill": [123, 117, 104], "p": zoom.p}
    assert defaults(multi_scale) == {"sizes": list(range(480, 801, 32)), "max_size": 1333}
    jitter = v2.ScaleJitter((1024, 1024))
    assert defaults(large_scale_jitter) == {"size": 1024, "scale": list(jitter.scale_range), "fill": [123, 117, 104]}
    assert defaults(flip) == {"p": v2.RandomHorizontalFlip().p}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hflp", "there is no augmentation 'hflp'.*did you mean 'hflip'"),
        ({"op": "flip", "p": 2.0}, "'p' of flip must be at most 1, not 2.0"),
        ({"op": "flip", "q": 0.5}, "augmentation 'flip' has no parameter 'q'"),
        ({"flip": 0.5}, r"written as its name or as \{op: NAME, ...\}.*write \{op: flip, ...\}"),
        ([{"op": "ssd_crop", "scale": [1.0, 0.5]}], "'scale' of ssd_crop must be a range from the smaller number"),
        ([{"op": "colours", "hue": [0.1]}], "'hue' of colours must be a list of at least 2"),
        ([{"op": "multi_scale", "sizes": 640}], "'sizes' of multi_scale must be a list, not 640"),
        ([{"op": "large_scale_jitter", "szie": 3}], "no parameter 'szie'.*did you mean 'size'"),
        ([{"op": "zoom_out", "scale": [0.5, 2.0]}], "'scale' of zoom_out must be at least 1"),
        (3, "3 is neither a preset, nor the name of an operation"),
        ([None], "None is neither a preset"),
    ],
)
def test_what_cannot_be_done_is_an_error(value: Any, message: str) -> None:
    with pytest.raises(KDError, match=f"(?s){message}"):
        parse(value)


def test_an_operation_of_ones_own_is_a_registered_function() -> None:
    @TRANSFORMS("grey_for_a_test")
    def grey(sample: Sample, chance: Chance, *, p: float = 0.5) -> Sample:
        return replace(sample, image=sample.image.convert("L").convert("RGB")) if chance.number() < p else sample

    (made,) = [parse({"op": "grey_for_a_test", "p": 1.0})(sample_of(), CounterRNG(0, 0, np.array([0])))]
    assert (np.ptp(pixels(made), 2) == 0).all()
