"""Joint transforms against PIL's and torchvision's own, and what they draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from kd_core.data.rng import CounterRNG
from kd_seg.data.sources import VOID
from kd_seg.data.spec import Jitter
from kd_seg.data.transforms import Crop, Whole, jittered, mask_window, scaled, under, window


def picture(height: int, width: int, seed: int = 0) -> tuple[Image.Image, np.ndarray]:
    """Noise, and a mask of classes 0 .. 20 with void."""
    generator = np.random.default_rng(seed)
    mask = generator.integers(-1, 21, (height, width)).astype(np.int16)
    mask[mask < 0] = VOID
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)), mask


def draws(sample: int = 0, epoch: int = 0, seed: int = 0) -> CounterRNG:
    return CounterRNG(seed, epoch, np.array([sample]))


def as_image(mask: np.ndarray) -> Image.Image:
    """A mask as PIL has it, void as 255."""
    return Image.fromarray(np.where(mask == VOID, 255, mask).astype(np.uint8))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("full", [(37, 61), (120, 170), (29, 40), (58, 80), (91, 33), (200, 300)])
def test_a_window_is_that_of_the_whole_image_scaled(full: tuple[int, int]) -> None:
    image, mask = picture(58, 80)
    whole = image.resize(full[::-1], Image.Resampling.BILINEAR)
    labels = np.asarray(as_image(mask).resize(full[::-1], Image.Resampling.NEAREST))
    height, width = full
    for box in ((0, 0, height, width), (3, 5, 27, 30), (height - 9, width - 8, height, width), (1, 0, 2, 1)):
        top, left, bottom, right = box
        seen = grey(window(image, full, box))
        assert (seen == grey(whole)[top:bottom, left:right]).all()
        seen = grey(as_image(mask_window(mask, full, box)))
        assert np.array_equal(seen, labels[top:bottom, left:right])


def test_windows_of_many_enlarged_images_are_those_of_the_whole() -> None:
    generator = np.random.default_rng(0)
    for seed in range(60):
        height, width = generator.integers(1, 60, 2).tolist()
        image, _ = picture(height, width, seed)
        full = (height + int(generator.integers(0, 150)), width + int(generator.integers(0, 150)))
        top, left = (int(generator.integers(0, size)) for size in full)
        bottom, right = (int(generator.integers(at + 1, size + 1)) for at, size in zip((top, left), full, strict=True))
        whole = grey(image.resize(full[::-1], Image.Resampling.BILINEAR))
        assert (grey(window(image, full, (top, left, bottom, right))) == whole[top:bottom, left:right]).all()


def test_an_enlarged_image_is_not_scaled_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    scaled_pixels, resize = [], Image.Image.resize

    def counting(image: Image.Image, size: tuple[int, int], *arguments: Any) -> Image.Image:
        scaled_pixels.append(size[0] * size[1])
        return resize(image, size, *arguments)

    monkeypatch.setattr(Image.Image, "resize", counting)
    window(picture(100, 120)[0], (400, 480), (100, 100, 150, 150))
    assert sum(scaled_pixels) < 400 * 480 / 5


def test_masks_are_scaled_as_pil_does_it_for_many_sizes() -> None:
    line = np.arange(250, dtype=np.uint8)
    for have in (1, 2, 13, 100, 250):
        for want in (1, 2, 3, 50, 99, 100, 101, 166, 333, 500, 777):
            expected = Image.fromarray(line[None, :have]).resize((want, 1), Image.Resampling.NEAREST)
            assert np.array_equal(under(have, want), np.asarray(expected)[0]), (have, want)


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (81, 81), (64, 97)])
def test_sizes_and_pixels_are_those_of_torchvisions_resize(size: tuple[int, int]) -> None:
    image, mask = picture(*size)
    pixels, same = Whole(51)(image, mask, None)
    expected = functional.resize(image, [51], InterpolationMode.BILINEAR)
    assert pixels.shape == (*expected.size[::-1], 3)
    assert (pixels == grey(expected)).all()
    assert same is mask


def test_evaluation_leaves_images_as_they_are() -> None:
    image, mask = picture(33, 47)
    pixels, same = Whole()(image, mask, None)
    assert np.array_equal(pixels, np.asarray(image))
    assert same is mask


def test_a_very_thin_image_does_not_grow_without_bound() -> None:
    assert scaled(Image.new("RGB", (3000, 1)), 520) == (520, 2**15)


def reference(view: Crop, image: Image.Image, mask: np.ndarray, sample: int) -> tuple[np.ndarray, ...]:
    """torchvision's steps one after another, on the whole image, with the same draws."""
    chance = draws(sample)
    size, flip, down, across = (float(chance.uniform()[0]) for _ in range(4))
    low, high = (int(view.size * factor) for factor in view.scale)
    shorter = low + int(size * (high - low + 1))
    image = functional.resize(image, [shorter], InterpolationMode.BILINEAR)
    labels = functional.resize(as_image(mask), [shorter], InterpolationMode.NEAREST)
    if flip < view.flip:
        image, labels = functional.hflip(image), functional.hflip(labels)
    missing = [max(want - have, 0) for want, have in zip(view.crop[::-1], image.size, strict=True)]
    image = functional.pad(image, [0, 0, *missing], fill=0)
    labels = functional.pad(labels, [0, 0, *missing], fill=255)
    width, height = image.size
    top, left = int(down * (height - view.crop[0] + 1)), int(across * (width - view.crop[1] + 1))
    return tuple(grey(functional.crop(each, top, left, *view.crop)) for each in (image, labels))


@pytest.mark.parametrize("crop", [(24, 32), (50, 20), (90, 90)])
def test_training_is_torchvisions_recipe(crop: tuple[int, int]) -> None:
    view = Crop(40, crop, (0.5, 2.0), 0.5)
    flipped = set()
    for sample in range(12):
        image, mask = picture(30 + 3 * sample, 61, seed=sample)
        pixels, labels = view(image, mask, draws(sample))
        expected = reference(view, image, mask, sample)
        assert pixels.shape == (*crop, 3)
        assert labels.shape == crop
        assert (pixels == expected[0]).all()
        assert np.array_equal(grey(as_image(labels)), expected[1])
        chance = draws(sample)
        chance.uniform()
        flipped.add(bool(chance.uniform()[0] < 0.5))
    assert flipped == {False, True}


def test_what_is_not_image_is_black_and_void() -> None:
    image, mask = Image.new("RGB", (20, 10), "white"), np.ones((10, 20), np.int16)
    for flip in (0.0, 1.0):
        pixels, labels = Crop(10, (16, 32), (1.0, 1.0), flip, Jitter(brightness=0.1, contrast=0.5))(
            image, mask, draws()
        )
        assert (labels[:10, :20] == 1).all()
        assert (labels == VOID).sum() == 16 * 32 - 200
        assert (pixels[labels == VOID] == 0).all()
        assert (pixels[labels == 1] > 100).all()


def test_image_and_mask_stay_together() -> None:
    """Each class has a colour: after any transform without scaling the mask is that of the image's colours."""
    mask = np.random.default_rng(0).integers(0, 5, (40, 50)).astype(np.int16)
    image = Image.fromarray(np.repeat((mask[..., None] * 50).astype(np.uint8), 3, 2))
    for sample in range(6):
        pixels, labels = Crop(40, (32, 32), (1.0, 1.0), 0.5)(image, mask, draws(sample))
        assert np.array_equal(pixels[..., 0], labels * 50)


def test_everything_is_a_function_of_seed_epoch_and_sample() -> None:
    image, mask = picture(50, 70)
    view = Crop(40, (32, 32), jitter=Jitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1))

    def seen(**values: int) -> bytes:
        pixels, labels = view(image, mask, draws(**values))
        return pixels.tobytes() + labels.tobytes()

    first = seen()
    np.random.seed(0)
    torch.manual_seed(0)
    assert seen() == first
    assert len({first, seen(sample=1), seen(epoch=1), seen(seed=1)}) == 4


def test_without_chance_the_middle_is_cut() -> None:
    image, mask = picture(40, 60)
    for view, chance in ((Crop(40, (20, 30)), None), (Crop(40, (20, 30), random=False), draws())):
        pixels, labels = view(image, mask, chance)
        assert np.array_equal(pixels, np.asarray(image)[10:30, 15:45])
        assert np.array_equal(labels, mask[10:30, 15:45])


def test_scales_and_places_are_spread_evenly() -> None:
    image, _ = picture(40, 40)
    view = Crop(40, (20, 20), (0.5, 1.5))
    places = [view._window(image, draws(sample)) for sample in range(800)]
    shorter = np.array([full[0] for full, _, _ in places])
    assert (shorter.min(), shorter.max()) == (20, 60)
    assert abs(shorter.mean() - 40) < 1.5
    assert 0.45 < np.mean([flipped for _, _, flipped in places]) < 0.55
    share = np.array([[start / max(side - 20, 1) for start in starts] for (side, _), starts, _ in places if side > 40])
    assert share.min() == 0
    assert share.max() == 1
    assert np.abs(share.mean(0) - 0.5).max() < 0.06


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_change_as_torchvisions_do(name: str) -> None:
    image, _ = picture(12, 15)
    values: dict[str, Any] = {name: 0.4}
    which = ("brightness", "contrast", "saturation", "hue").index(name)
    change = getattr(functional, f"adjust_{name}")
    for sample in range(4):
        share = [float(each.uniform()[0]) for each in [draws(sample)] for _ in range(8)][which]
        factor = (2 * share - 1) * 0.4 if name == "hue" else 0.6 + 0.8 * share
        made = jittered(image, Jitter(**values), draws(sample))
        assert np.array_equal(np.asarray(made), np.asarray(change(image, factor)))


def test_the_order_of_changes_is_drawn() -> None:
    image, _ = picture(12, 15)
    jitter = Jitter(brightness=0.5, contrast=0.5)
    orders = set()
    for sample in range(16):
        chance = draws(sample)
        share = [float(chance.uniform()[0]) for _ in range(8)]
        bright, contrast = (0.5 + share[each] for each in range(2))
        first = functional.adjust_contrast(functional.adjust_brightness(image, bright), contrast)
        second = functional.adjust_brightness(functional.adjust_contrast(image, contrast), bright)
        made = grey(jittered(image, jitter, draws(sample)))
        orders.add((np.array_equal(made, grey(first)), np.array_equal(made, grey(second))))
    assert {(True, False), (False, True)} <= orders
    assert (False, False) not in orders


def test_strong_jitter_never_turns_a_factor_negative() -> None:
    image, _ = picture(8, 8)
    drawn = v2.ColorJitter(brightness=3.0).brightness  # torchvision's own bounds
    assert drawn is not None
    assert tuple(drawn) == (0.0, 4.0)
    for sample in range(4):
        share = float(draws(sample).uniform()[0])
        made = jittered(image, Jitter(brightness=3.0), draws(sample))
        assert np.array_equal(np.asarray(made), np.asarray(functional.adjust_brightness(image, 4 * share)))
