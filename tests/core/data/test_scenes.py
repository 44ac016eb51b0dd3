"""The generated scenes: pure, exact, varied."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from kd_core.data.scenes import CLASSES, LONGEST, SHAPES, SHORTEST, VOID, distance, scene


def test_a_scene_is_a_function_of_its_number() -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    drawn = scene(3)
    for other in (0, 5):
        scene(other)
    np.random.seed(2)
    again = scene(3)
    assert np.array_equal(drawn.image, again.image)
    assert np.array_equal(drawn.mask, again.mask)
    assert not np.array_equal(drawn.mask, scene(4).mask)


def test_what_is_drawn_changes_with_the_version_only() -> None:
    """Raise VERSION with this digest: fingerprints of runs name it."""
    masks = b"".join(scene(number).mask.tobytes() for number in range(20))
    images = b"".join(scene(number).image.tobytes() for number in range(20))
    assert hashlib.sha256(masks).hexdigest() == "876be21e3cc6a0bb65ea1b1495bef932467953516d1d75ea1f1a3ea1fae53d23"
    assert hashlib.sha256(images).hexdigest() == "47bb23ccbba47c34d1f17bd6a40dd87ceeb1784450bd879c3c0aea4d0d086c67"


def test_sizes_and_classes_vary() -> None:
    drawn = [scene(number) for number in range(80)]
    sides = np.array([each.mask.shape for each in drawn])
    assert all(each.image.shape == (*each.mask.shape, 3) for each in drawn)
    assert sides.min() >= SHORTEST
    assert sides.max() <= LONGEST
    assert {0, 1} == set((sides % 2).flatten())
    assert len({tuple(each) for each in sides}) > 60
    pixels = np.concatenate([each.mask.flatten() for each in drawn])
    values, counts = np.unique(pixels, return_counts=True)
    assert values.tolist() == [VOID, *range(len(CLASSES))]
    shares = counts / len(pixels)
    assert shares[0] < 0.1  # void is thin
    assert shares[2:].min() > 0.015  # and no class a rarity
    assert drawn[0].image.dtype == np.uint8
    assert drawn[0].mask.dtype == np.int16


def test_void_lies_between_classes() -> None:
    for number in range(20):
        mask = scene(number).mask
        for one, other in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
            assert not ((one != other) & (one != VOID) & (other != VOID)).any()


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        ("disc", [(0, 0), (9.9, 0)], [(10.1, 0), (7.2, 7.2)]),
        ("square", [(8.4, 8.4)], [(8.6, 0), (0, -8.6)]),
        ("triangle", [(0, 0), (0, 11.9), (0, -11.9 / 2)], [(0, 12.1), (0, -6.1), (6, 6)]),
        ("ring", [(9.9, 0), (0, -5.1)], [(0, 0), (4.9, 0), (10.1, 0)]),
        ("cross", [(0, 0), (9.9, 0), (2.9, -9.9)], [(10.1, 0), (3.1, 3.1)]),
    ],
)
def test_distances_have_the_shapes_sign(
    kind: str, inside: list[tuple[float, float]], outside: list[tuple[float, float]]
) -> None:
    def at(points: list[tuple[float, float]]) -> np.ndarray:
        u, v = np.array(points, np.float32).T
        return distance(kind, u, v, 10.0)

    assert (at(inside) < 0).all()
    assert (at(outside) > 0).all()


def test_a_pixel_belongs_to_the_shape_that_was_drawn_last() -> None:
    for number in range(20):
        drawn = scene(number)
        assert drawn.owners.shape == drawn.mask.shape
        assert drawn.owners.max() <= len(drawn.kinds) <= SHAPES
        classes = np.array([0, *drawn.kinds])[drawn.owners]
        assert (classes == drawn.mask)[drawn.mask != VOID].all()
        assert drawn.owners[drawn.mask == VOID].any()  # a shape's border is its own
