"""Augmentation is a pure function of (seed, epoch, sample)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kd_core.data.batch import SHARED
from kd_core.data.rng import CounterRNG, random_u64
from kd_core.errors import KDError
from kd_vision.cli import main
from kd_vision.data.augment import AUGMENTATIONS, parse
from kd_vision.data.in_memory import ArraySplit
from kd_vision.data.labelled_subset import labelled_images

EVERYTHING = ["crop", "flip", {"op": "shift", "pixels": 2}, {"op": "cutout", "size": 3}]
N, SIDE = 40, 8


def digits(count: int = N, side: int = SIDE) -> Tensor:
    """Images (count, 3, side, side) of which no two rows or columns are equal, and none is black."""
    return (torch.arange(count * 3 * side * side) % 251 + 1).to(torch.uint8).reshape(count, 3, side, side)


def split(augment: str | Sequence[Any] = EVERYTHING) -> ArraySplit:
    return ArraySplit(labelled_images(digits(), torch.arange(N) % 4), parse(augment))


def views(order: list[Tensor], epoch: int = 0, seed: int = 0) -> dict[int, Tensor]:
    """Row -> its augmented image."""
    seen = {}
    for batch in split().batches(order, epoch=epoch, seed=seed, augment=True):
        seen.update(zip(batch.index.tolist(), batch.inputs[SHARED], strict=True))
    return seen


def test_numbers_are_those_of_splitmix64() -> None:
    # the first outputs for seed 1234567 that its authors' C code gives
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_u64(1234567, np.arange(4)).tolist() == expected


def test_draws_are_uniform_and_differ_in_every_argument() -> None:
    index = np.arange(20_000)
    first = CounterRNG(0, 0, index)
    columns = [first.uniform(), first.uniform(), CounterRNG(1, 0, index).uniform(), CounterRNG(0, 1, index).uniform()]
    for column in columns:
        counts = np.bincount((column * 10).astype(int), minlength=10)
        assert abs(counts - 2000).max() < 5 * 2000**0.5
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    assert abs(correlations).max() < 5 / len(index) ** 0.5
    assert set(CounterRNG(0, 0, index).integers(9).tolist()) == set(range(9))


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(N)), st.integers(1, N), st.integers(0, 2**62), st.integers(0, 300))
def test_other_samples_batch_size_and_order_change_nothing(order: list[int], size: int, seed: int, epoch: int) -> None:
    alone = views([torch.tensor([row]) for row in range(N)], epoch, seed)
    together = views(list(torch.tensor(order).split(size)), epoch, seed)
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[row], together[row]) for row in alone)


def test_seed_and_epoch_change_what_is_drawn() -> None:
    order = [torch.arange(N)]
    base = views(order)
    for other in (views(order, epoch=1), views(order, seed=1)):
        assert sum(not torch.equal(base[row], other[row]) for row in base) > N / 2


def test_no_random_state_is_read_or_advanced() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    seen = views([torch.arange(N)])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))
    torch.manual_seed(4)
    again = views([torch.arange(N)])
    assert all(torch.equal(seen[row], again[row]) for row in seen)


def test_a_crop_is_a_window_of_the_padded_image_and_every_window_comes() -> None:
    images, seen = digits(), set()
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for epoch in range(30):
        [batch] = split([{"op": "crop", "padding": 2}]).batches([torch.arange(N)], epoch=epoch, seed=0, augment=True)
        for image, whole in zip(batch.inputs[SHARED], padded, strict=True):
            windows = [(y, x) for y in range(5) for x in range(5) if torch.equal(image, whole[:, y : y + 8, x : x + 8])]
            assert len(windows) == 1
            seen.update(windows)
    assert len(seen) == 25


def test_a_flip_mirrors_half_of_the_images() -> None:
    images = digits(2000, 4)
    flipped = AUGMENTATIONS.get("flip")(images, CounterRNG(0, 0, np.arange(2000)))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 900 < mirrored.sum() < 1100
    assert torch.equal(images, digits(2000, 4))


def test_cutout_blackens_a_square() -> None:
    images = digits(500)
    cut = AUGMENTATIONS.get("cutout")(images, CounterRNG(0, 0, np.arange(500)), size=4)
    black = (cut == 0).all(1)
    assert (cut == images)[~black[:, None].expand_as(cut)].all()
    assert black.flatten(1).sum(1).max() == 16
    for mask in black:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        assert mask.sum() == len(rows) * len(columns) > 0


def test_without_augmentation_images_are_as_they_were() -> None:
    order = torch.randperm(N)
    [batch] = split().batches([order], epoch=0, seed=0, augment=False)
    assert torch.equal(batch.inputs[SHARED], digits()[order])
    assert torch.equal(batch.target, order % 4)
    assert torch.equal(batch.index, order)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("crop_flop", "did you mean 'crop_flip'"),
        (["crops"], "did you mean 'crop'"),
        ([{"op": "crop", "paddin": 4}], "(?s)has no parameter 'paddin'.*did you mean 'padding'"),
        ([{"padding": 4}], "{op: NAME, ...}"),
        ([{"op": 3}], "{op: NAME, ...}"),
        (["crop", abs], "before the named operations"),
        (["crop", "resized_crop_flip"], "must stand first"),
        ([{"op": "crop", "padding": -1}], "'padding' of crop must be at least 1, not -1"),
        ([{"op": "crop", "padding": "4"}], "must be an integer, not '4'"),
        ([{"op": "flip", "p": 2}], "'p' of flip must be at most 1, not 2"),
    ],
)
def test_what_cannot_be_parsed_is_refused(value: Any, says: str) -> None:
    with pytest.raises(KDError, match=says):
        parse(value)


def test_an_operation_of_ones_own_is_a_registered_function() -> None:
    @AUGMENTATIONS("invert-for-a-test")
    def invert(images: Tensor, draws: CounterRNG, *, below: float = 1.0) -> Tensor:
        chosen = torch.from_numpy(draws.uniform() < below)[:, None, None, None]
        return torch.where(chosen, 255 - images, images)

    [batch] = split(["invert-for-a-test"]).batches([torch.arange(N)], epoch=0, seed=0, augment=True)
    assert torch.equal(batch.inputs[SHARED], 255 - digits())


def test_a_listed_operation_shows_only_what_a_config_may_write() -> None:
    lines = CliRunner().invoke(main, ["list", "augmentations"]).stdout.splitlines()
    assert "crop(padding: int >= 1 = 4)" in lines
    assert not any("images" in line or "draws" in line for line in lines if not line.startswith(" "))
