"""The kinds of errors, box by box, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from kd_vision.detection.results.errors import (
    BADLY_PLACED,
    BOTH,
    DUPLICATE,
    FALSE,
    MISSED,
    WRONG_CLASS,
    errors_of,
    overlaps_of,
)
from kd_vision.detection.results.objects import Objects

PLACE = (0, 0, 10, 10)
"""Where an object is: a box of the same height beside it overlaps it by (10 - shift) / (10 + shift)."""


def objects(*boxes: tuple[tuple[int, int, int, int], int], crowds: tuple[int, ...] = ()) -> Objects:
    places = np.array([box for box, _ in boxes], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label in boxes], np.int64)
    scores = np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)
    return Objects(places, labels, scores, crowds=np.isin(np.arange(len(boxes)), crowds))


def shifted(pixels: int) -> tuple[int, int, int, int]:
    return (pixels, 0, 10 + pixels, 10)


def test_overlaps() -> None:
    union, own = overlaps_of(
        np.array([[0, 0, 10, 10], [0, 0, 0, 0]], np.float32), np.array([[5, 0, 15, 10], [0, 0, 10, 10]])
    )
    assert union == pytest.approx(np.array([[50 / 150, 1], [0, 0]]))
    assert own == pytest.approx(np.array([[0.5, 1], [0, 0]]))
    assert overlaps_of(np.zeros((0, 4)), np.zeros((3, 4)))[0].shape == (0, 3)


@pytest.mark.parametrize(
    ("box", "label", "kind", "missed"),
    [
        (shifted(0), 1, None, False),
        (shifted(3), 1, None, False),  # 7 / 13
        (shifted(4), 1, BADLY_PLACED, False),  # 6 / 14
        (shifted(8), 1, BADLY_PLACED, False),  # 2 / 18
        (shifted(9), 1, FALSE, True),  # 1 / 19
        (shifted(0), 2, WRONG_CLASS, False),
        (shifted(4), 2, BOTH, True),
        (shifted(9), 2, FALSE, True),
        (shifted(50), 1, FALSE, True),
    ],
)
def test_one_box_and_one_object(box: tuple[int, int, int, int], label: int, kind: str | None, missed: bool) -> None:
    found = errors_of(objects((box, label)), objects((PLACE, 1)))
    assert found.detections == (kind,)
    assert found.objects == (MISSED if missed else kind,)
    assert found.total == (kind is not None) + missed


def test_the_second_box_on_an_object_is_a_duplicate_even_if_it_is_the_better_one() -> None:
    found = errors_of(objects((shifted(2), 1), (shifted(0), 1), (shifted(1), 1)), objects((PLACE, 1), (shifted(20), 1)))
    assert found.detections == (None, DUPLICATE, DUPLICATE)
    assert found.objects == (None, MISSED)
    assert found.counts() == {DUPLICATE: 2, MISSED: 1}


def test_a_box_finds_the_object_that_it_overlaps_most() -> None:
    found = errors_of(objects((shifted(1), 1), (shifted(4), 1)), objects((shifted(3), 1), (shifted(0), 1)))
    assert found.detections == (None, None)
    assert not any(found.objects)


def test_crowds_are_not_missed_and_boxes_on_them_are_no_errors() -> None:
    truth = objects(((0, 0, 100, 100), 1), crowds=(0,))
    found = errors_of(objects(((5, 5, 15, 15), 1), ((20, 20, 30, 30), 1), ((5, 5, 15, 15), 2)), truth)
    assert found.detections == (None, None, FALSE)
    assert not any(found.objects)


def test_nothing_on_either_side() -> None:
    assert errors_of(objects(), objects()).total == 0
    assert errors_of(objects(), objects((PLACE, 1), (PLACE, 2))).counts() == {MISSED: 2}
    assert errors_of(objects((PLACE, 1)), objects()).counts() == {FALSE: 1}
