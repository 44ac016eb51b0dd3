"""Shapes of instances: kept, drawn, and made of masks."""

from __future__ import annotations

import numpy as np
import pytest

from kd_core.data.shapes import counts_of, doubled_area, pixels_of, runs_from, shape_of


def test_runs_of_a_mask_draw_the_mask() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) < 0.5, np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(3, dtype=bool)):
        runs = runs_from(mask)
        assert runs["size"] == list(mask.shape)
        assert sum(runs["counts"]) == mask.size
        assert all(count > 0 for count in runs["counts"][1:])
        assert np.array_equal(pixels_of(runs, *mask.shape).astype(bool), mask)


def test_several_polygons_are_one_shape() -> None:
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    shape = shape_of([square, [value + 2 for value in square]])
    drawn = pixels_of(shape, 8, 8)
    assert (drawn.shape, drawn.dtype, int(drawn.max())) == ((8, 8), np.uint8, 1)
    assert drawn.sum() == 28
    assert pixels_of([], 8, 9).shape == (8, 9)


def test_the_area_of_a_polygon_has_a_sign() -> None:
    square = np.array([1.0, 1, 4, 1, 4, 4, 1, 4])
    assert (doubled_area(square), doubled_area(square.reshape(-1, 2)[::-1].flatten())) == (18, -18)


@pytest.mark.parametrize(("size", "counts"), [([5, 4], [20]), ([4, 5], [3, 4])])
def test_runs_of_another_size_are_refused(size: list[int], counts: list[int]) -> None:
    with pytest.raises(ValueError, match=r"run lengths of .* in an image of"):
        pixels_of({"size": size, "counts": counts}, 4, 5)


@pytest.mark.parametrize("text", ["\x00", "é", "o" * 9, "P", "0O"])
def test_texts_that_are_no_run_lengths(text: str) -> None:
    with pytest.raises(ValueError, match="has run lengths in a text that COCO's encoder does not write"):
        counts_of(text)
