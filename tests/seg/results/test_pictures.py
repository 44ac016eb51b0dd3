"""Pictures: colours at known places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from kd_core import pictures
from kd_core.pictures import GAP, LARGEST, LINE, MARGIN, SMALLEST, TEXT, WHITE, borders, fitted, save
from kd_seg.data.sources import VOC_CLASSES, VOID
from kd_seg.results.pictures import (
    GREY,
    MADE_BY,
    PALE,
    Panel,
    colour_map,
    confusion_picture,
    overlay,
    painted,
    palette_mask,
    side_by_side,
)

VOC = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 8: (64, 0, 0), 15: (192, 128, 128)}
VOC |= {16: (0, 64, 0), 20: (0, 64, 128), 255: (224, 224, 192)}


def halves(left: int, right: int, height: int = 40, width: int = 60) -> np.ndarray:
    """A mask of one class beside another."""
    mask = np.full((height, width), left, np.int16)
    mask[:, width // 2 :] = right
    return mask


def panel(picture: Image.Image, number: int, height: int, width: int) -> np.ndarray:
    """The pixels of one panel."""
    left, top = MARGIN + number * (width + GAP), MARGIN + LINE
    return np.asarray(picture)[top : top + height, left : left + width]


def test_the_colours_are_those_of_voc_and_none_comes_twice() -> None:
    colours = colour_map(1000)
    for number, colour in VOC.items():
        assert tuple(colours[number]) == colour
    assert len(np.unique(colours, axis=0)) == 1000


def test_a_mask_lies_over_its_image() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    seen = overlay(image, halves(15, 0))
    assert tuple(seen[20, 10]) == tuple(round(0.4 * 200 + 0.6 * each) for each in VOC[15])
    assert tuple(seen[20, 50]) == (140, 140, 140), "black covers half as much"
    assert tuple(seen[20, 29]) == VOC[15], "a border is all of its colour"
    assert tuple(seen[20, 30]) == VOC[0]
    assert borders(halves(15, 0)).sum() == 2 * 40
    assert tuple(overlay(image, halves(1, 2), alpha=1)[0, 0]) == VOC[1]


def test_void_is_hatched_whatever_lies_below() -> None:
    mask = halves(VOID, 3)
    found = {tuple(each) for each in overlay(np.zeros((40, 60, 3), np.uint8), mask)[:, :30].reshape(-1, 3)}
    assert found == {WHITE, GREY}
    assert tuple(painted(mask)[0, 59]) == (128, 128, 0)


def test_panels_and_their_legend() -> None:
    image = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    truth, found = halves(VOID, 3), halves(0, 3)
    picture = side_by_side(
        [Panel("image", image), Panel("truth", image, truth), Panel("me", image, found)], VOC_CLASSES
    )
    height, width = fitted(40, 60)
    assert (height, width) == (240, 360)
    large = image.repeat(6, 0).repeat(6, 1)
    assert np.array_equal(panel(picture, 0, height, width), large)
    for number, mask in ((1, truth), (2, found)):
        assert np.array_equal(panel(picture, number, height, width), overlay(large, mask.repeat(6, 0).repeat(6, 1)))
    assert picture.width == 2 * MARGIN + 3 * width + 2 * GAP
    titles = np.asarray(picture)[MARGIN : MARGIN + LINE, :, 0]
    for left in (MARGIN + number * (width + GAP) for number in range(3)):
        assert titles[:, left : left + 30].min() < 100, "no title"
    # the legend has the classes that occur, in their order, and void
    row = np.asarray(picture)[MARGIN + LINE + height + GAP + LINE // 2]
    ink = [tuple(each) for each in row]
    assert ink[MARGIN + TEXT // 2] == VOC[0]
    assert ink.count((128, 128, 0)) == TEXT + 4
    assert ink.index((128, 128, 0)) < ink.index(GREY, ink.index((128, 128, 0)) + TEXT + 6)
    assert ink.count((128, 0, 0)) == 0


def test_no_legend_without_masks_and_more_lines_for_more_classes() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    alone = side_by_side([Panel("image", image)], VOC_CLASSES)
    assert alone.size == (400 + 2 * MARGIN, 400 + 2 * MARGIN + LINE)
    heights = []
    for classes in (1, 2, 21):
        mask = np.arange(400 * 400, dtype=np.int16).reshape(400, 400) % classes
        heights.append(side_by_side([Panel("image", image, mask)], VOC_CLASSES).height)
    assert heights[0] == heights[1] == alone.height + GAP + LINE
    assert heights[2] > heights[1] + 2 * LINE


@pytest.mark.parametrize("size", [(1024, 2048), (3000, 20), (5, 4), (SMALLEST, 10), (1, 5000)])
def test_panels_of_any_size_of_image(size: tuple[int, int]) -> None:
    height, width = fitted(*size)
    assert SMALLEST <= max(height, width) <= LARGEST
    assert min(height, width) >= 1
    mask = np.zeros(size, np.int16)
    mask[size[0] // 2 :] = 1
    small = np.full((max(size[0] // 2, 1), size[1], 3), 90, np.uint8)  # an image may be of another size than its mask
    picture = side_by_side([Panel("a title that is wider than this", small, mask)], ("ground", "road"))
    pixels = panel(picture, 0, height, width)
    assert tuple(pixels[-1, -1]) == tuple(np.round(0.4 * 90 + 0.6 * colour_map(2)[1]).astype(int))
    assert picture.width >= SMALLEST


def test_masks_are_saved_by_value(tmp_path: Path) -> None:
    mask = halves(3, 255)
    save(palette_mask(mask), tmp_path / "a.png", MADE_BY)
    with Image.open(tmp_path / "a.png") as found:
        assert found.mode == "P"
        assert np.array_equal(np.asarray(found), mask)
        assert found.convert("RGB").getpixel((0, 0)) == (128, 128, 0)
    save(palette_mask(halves(3, 300)), tmp_path / "b.png", MADE_BY)
    with Image.open(tmp_path / "b.png") as found:
        assert np.array_equal(np.asarray(found), halves(3, 300))


def cells(picture: Image.Image, count: int, cell: int) -> np.ndarray:
    """(C, C, cell, cell, 3): the cells of a confusion matrix, found by the bar beside it."""
    pixels = np.asarray(picture)
    top = pixels.shape[0] - MARGIN - count * cell
    dark = np.flatnonzero((pixels[top + 2] == (8, 48, 107)).all(1))  # of the first row's first cell, and of the bar
    left = int(dark[0]) - int(dark[0] - 1 > 0 and (pixels[top + 2, dark[0] - 1] != 255).any())
    found = pixels[top : top + count * cell, left : left + count * cell]
    return found.reshape(count, cell, count, cell, 3).swapaxes(1, 2)


def test_a_confusion_matrix_has_the_colours_of_its_shares() -> None:
    matrix = np.array([[5, 0, 0], [0, 0, 0], [60, 30, 10]])
    picture = confusion_picture(matrix, ("one", "two", "three"))
    cell = 96
    found = cells(picture, 3, cell)
    corner = found[:, :, 8, 8]
    assert tuple(corner[0, 0]) == (8, 48, 107)
    assert tuple(corner[0, 1]) == WHITE
    assert {tuple(each) for each in corner[1]} == {PALE}
    assert tuple(corner[2, 2]) == (222, 235, 247)
    levels = corner[2].astype(int).sum(1)
    assert levels[0] < levels[1] < levels[2]
    inked = [[len(np.unique(each[20:-20, 8:-8].reshape(-1, 3), axis=0)) > 1 for each in row] for row in found]
    assert inked == [[True, False, False], [False, False, False], [True, True, True]], "percentages"


@pytest.mark.parametrize(("classes", "numbers"), [(2, True), (21, True), (81, True), (300, False)])
def test_a_confusion_matrix_of_many_classes(classes: int, numbers: bool) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 7
    plain = confusion_picture(matrix, ["a class with a name that is very long indeed"] * classes)
    assert max(plain.size) < 4400
    cell = max(min(96, max(960 // classes, 18), 4000 // classes), 1)
    every = np.arange(classes)
    diagonal = cells(plain, classes, cell)[every, every][:, 3:-3, 3:-3]
    assert (diagonal == (8, 48, 107)).all(-1).any((1, 2)).all()
    inked = (diagonal != (8, 48, 107)).any(-1).any((1, 2))
    assert inked.all() == inked.any() == numbers


def test_a_font_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow before 10.1, or without FreeType."""

    def load_default() -> Any:
        return ImageFont.load_default_imagefont()

    pictures.font.cache_clear()
    monkeypatch.setattr(ImageFont, "load_default", load_default)
    try:
        mask = halves(0, 1)
        picture = side_by_side([Panel("ein Bär, 一頭熊", np.zeros((40, 60, 3), np.uint8), mask)], ("Grund", "熊"))
        titles = np.asarray(picture)[MARGIN : MARGIN + LINE]
        assert titles.min() == 0
        assert (titles < 100).any(-1).any(0).sum() > 30
        confusion_picture(np.eye(2, dtype=np.int64), ("Grund", "熊"))
    finally:
        pictures.font.cache_clear()
