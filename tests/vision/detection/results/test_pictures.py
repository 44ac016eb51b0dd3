"""Pictures of detections: colours at known places."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from kd_core.pictures import GAP, MARGIN, SMALLEST, TEXT, WHITE, line_of
from kd_vision.detection.results.objects import Objects
from kd_vision.detection.results.pictures import (
    ALPHA,
    Panel,
    class_colours,
    class_panel,
    common,
    free_place,
    ink_on,
    letters,
    side_by_side,
    to_lab,
)

CLASSES = ("background", "cat", "dog")
IMAGE = np.full((400, 600, 3), 100, np.uint8)


def objects(*boxes: tuple[float, ...], labels: tuple[int, ...] | None = None, **fields: object) -> Objects:
    places = np.array(boxes, np.float32).reshape(-1, 4)
    return Objects(places, np.array(labels or [1] * len(boxes), np.int64), **fields)  # type: ignore[arg-type]


def pixels_of(*panels: Panel, number: int = 0, **options: object) -> np.ndarray:
    """The pixels of one panel of a picture."""
    height, width = panels[0].image.shape[:2]
    text = max(TEXT, letters(height, width))
    left, top = MARGIN + number * (width + GAP), MARGIN + line_of(text)
    return np.asarray(side_by_side(panels, **options))[top : top + height, left : left + width]  # type: ignore[arg-type]


def test_colours_are_far_from_each_other_and_do_not_depend_on_how_many_there_are() -> None:
    colours = class_colours(91)
    assert colours[:3] == class_colours(3)
    assert len(set(colours)) == 91
    lab = to_lab(np.array(colours, float))
    distances = {pair: np.linalg.norm(lab[pair[0]] - lab[pair[1]]) for pair in combinations(range(91), 2)}
    assert min(distances.values()) > 10
    assert min(distance for pair, distance in distances.items() if max(pair) < 21) > 30
    assert len(class_colours(1204)) == 1204


def test_black_and_white_in_lab() -> None:
    lab = to_lab(np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0]], float))
    assert lab == pytest.approx(np.array([[0, 0, 0], [100, 0, 0], [53.24, 80.09, 67.20]]), abs=0.05)


def test_what_is_written_on_a_colour_can_be_read() -> None:
    for colour in class_colours(91):
        lightness = to_lab(np.array([colour, ink_on(colour)], float))[:, 0]
        assert abs(lightness[0] - lightness[1]) > 38


def test_a_photo_keeps_its_size_and_a_small_image_is_enlarged() -> None:
    panel = class_panel("student", IMAGE, objects(), CLASSES)
    assert (pixels_of(panel) == 100).all()
    assert side_by_side([panel, panel]).width == 2 * MARGIN + 2 * 600 + GAP
    large = np.zeros((1500, 2500, 3), np.uint8)
    assert side_by_side([class_panel("", large, objects(), CLASSES)]).width == 2500 + 2 * MARGIN
    assert side_by_side([class_panel("", large, objects(), CLASSES)], largest=500).width == 500 + 2 * MARGIN
    small = np.zeros((30, 40, 3), np.uint8)
    assert side_by_side([class_panel("", small, objects(), CLASSES)]).width == SMALLEST + 2 * MARGIN


def test_a_box_is_drawn_in_the_colour_of_its_class_where_it_is() -> None:
    drawn = pixels_of(class_panel("", IMAGE, objects((50, 100, 250, 300), labels=(2,)), CLASSES))
    colour = class_colours(3)[2]
    for y, x in ((200, 50), (200, 250), (300, 150), (200, 51), (299, 150)):
        assert tuple(drawn[y, x]) == colour
    for y, x in ((200, 48), (200, 150), (200, 253), (303, 150), (10, 10)):
        assert tuple(drawn[y, x]) == (100, 100, 100)


def test_boxes_that_leave_the_image_are_drawn_at_its_edge() -> None:
    drawn = pixels_of(class_panel("", IMAGE, objects((-50, -10, 700, 500), (620, 10, 640, 30)), CLASSES))
    assert tuple(drawn[200, 599]) == tuple(drawn[399, 300]) == class_colours(3)[1]


def test_boxes_and_points_that_are_far_away_or_turned_round_are_drawn() -> None:
    points = np.array([[[1e30, -1e30, 2], [100, 100, 2]]] * 2, np.float32)
    strange = objects((1e30, 1e30, -1e30, 50), (250, 300, 50, 100), keypoints=points)
    drawn = pixels_of(class_panel("", IMAGE, strange, CLASSES), skeleton=((0, 1),))
    assert tuple(drawn[200, 50]) == tuple(drawn[200, 250]) == tuple(drawn[200, 0]) == class_colours(3)[1]


def test_boxes_grow_with_an_image_that_is_enlarged() -> None:
    small = np.zeros((40, 80, 3), np.uint8)
    picture = np.asarray(side_by_side([class_panel("", small, objects((10, 20, 60, 35)), CLASSES)]))
    top = MARGIN + line_of(TEXT)
    assert tuple(picture[top + 4 * 30, MARGIN + 4 * 10]) == class_colours(3)[1]
    assert tuple(picture[top + 4 * 35, MARGIN + 4 * 40]) == class_colours(3)[1]


def test_a_crowd_is_dashed_and_named() -> None:
    crowd = objects((50, 100, 550, 300), crowds=np.array([True]))
    panel = class_panel("", IMAGE, crowd, CLASSES)
    assert list(panel.captions) == ["cat (crowd)"]
    edge = (pixels_of(panel)[300, 50:550] == class_colours(3)[1]).all(-1)
    assert 0.4 < edge.mean() < 0.6


def test_captions_have_the_score_and_the_class() -> None:
    found = objects((0, 0, 9, 9), (0, 0, 9, 9), labels=(1, 7), scores=np.array([0.876, 0.5], np.float32))
    assert list(class_panel("", IMAGE, found, CLASSES).captions) == ["cat 0.88", "7 0.50"]


@pytest.mark.parametrize("size", [(400, 600), (1200, 1800), (3000, 4000)])
def test_letters_are_as_large_as_the_photo_asks_for(size: tuple[int, int]) -> None:
    text = letters(*size)
    assert text == max(13, round(max(size) / 50))
    image = np.full((*size, 3), 100, np.uint8)
    drawn = pixels_of(class_panel("", image, objects((0.4 * size[1], 0.5 * size[0], size[1], size[0])), CLASSES))
    column = (drawn[:, int(0.4 * size[1])] == class_colours(3)[1]).all(-1)
    assert line_of(text) * 0.8 < column[: size[0] // 2].sum() <= line_of(text)


def test_captions_stay_in_the_image_and_do_not_cover_each_other() -> None:
    boxes = [(0, 0, 100, 60), (0, 0, 100, 60), (590, 0, 599, 300), (0, 390, 9, 399), (20, 5, 90, 50)]
    taken: list[tuple[int, int, int, int]] = []
    for box in boxes:
        place = free_place(np.array(box, float), (20, 80), (400, 600), taken)
        assert place[0] >= 0
        assert place[1] >= 0
        assert place[2] < 600
        assert place[3] < 400
        assert not any(common(place, other) for other in taken)
        taken.append(place)


def test_the_highest_score_is_on_top() -> None:
    scores = np.array([0.9, 0.6], np.float32)
    drawn = pixels_of(
        class_panel("", IMAGE, objects(*[(50, 100, 250, 300)] * 2, labels=(1, 2), scores=scores), CLASSES)
    )
    assert tuple(drawn[200, 50]) == class_colours(3)[1]


def test_where_captions_cover_each_other_that_of_the_highest_score_is_read() -> None:
    scores = np.linspace(0.5, 0.9, 300, dtype=np.float32)
    labels = (1,) * 299 + (2,)
    drawn = pixels_of(
        class_panel("", IMAGE, objects(*[(50, 100, 90, 140)] * 300, labels=labels, scores=scores), CLASSES)
    )
    caption = drawn[81:99, 50:60]
    assert (caption == class_colours(3)[2]).all(-1).mean() > 0.5


def test_masks_lie_over_the_image_with_borders() -> None:
    mask = np.zeros((1, 400, 600), bool)
    mask[0, 100:200, 100:300] = True
    drawn = pixels_of(class_panel("", IMAGE, objects((100, 100, 300, 200), masks=mask), CLASSES))
    colour = np.array(class_colours(3)[1])
    assert drawn[150, 200] == pytest.approx(np.round((1 - ALPHA) * 100 + ALPHA * colour))
    assert tuple(drawn[150, 299]) == tuple(colour)
    assert tuple(drawn[150, 310]) == (100, 100, 100)
    empty = class_panel("", IMAGE, objects((100, 100, 300, 200), masks=np.zeros((1, 400, 600), bool)), CLASSES)
    assert tuple(pixels_of(empty)[150, 200]) == (100, 100, 100)


def test_keypoints_that_are_there_are_joined() -> None:
    points = np.array([[[100, 100, 2], [300, 100, 2], [100, 300, 0], [300, 300, 1]]], np.float32)
    panel = class_panel("", IMAGE, objects((50, 50, 400, 350), keypoints=points), CLASSES)
    drawn = pixels_of(panel, skeleton=((0, 1), (0, 2), (1, 3)))
    colour = class_colours(3)[1]
    assert tuple(drawn[100, 200]) == tuple(drawn[100, 100]) == tuple(drawn[200, 300]) == colour
    assert tuple(drawn[200, 100]) == tuple(drawn[300, 100]) == (100, 100, 100)
    assert any(tuple(drawn[300, x]) == WHITE for x in range(290, 311)), "a hidden one is hollow"
    assert tuple(drawn[302, 300]) == (100, 100, 100)
