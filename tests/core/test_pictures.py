"""What every picture is made of: panels under titles, and files that say who made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.pictures import GAP, LARGEST, LINE, MARGIN, SMALLEST, TEXT, cut, fitted, length, save, saved_by, titled_row


def test_a_picture_says_which_command_made_it(tmp_path: Path) -> None:
    picture = Image.new("RGB", (9, 9))
    save(picture, tmp_path / "ours.png", "kd-seg")
    picture.save(tmp_path / "theirs.png")
    (tmp_path / "text.png").write_text("no picture")
    names = ("ours", "theirs", "text")
    assert [saved_by(tmp_path / f"{name}.png", "kd-seg") for name in names] == [True, False, False]
    assert not saved_by(tmp_path / "ours.png", "kd-vision")


@pytest.mark.parametrize(
    ("size", "scaled", "own"),
    [
        ((40, 60), (240, 360), (240, 360)),
        ((200, 400), (200, 400), (200, 400)),
        ((1000, 2000), (LARGEST // 2, LARGEST), (1000, 2000)),
        ((1, 5000), (1, LARGEST), (1, 5000)),
        ((SMALLEST, 2), (SMALLEST, 2), (SMALLEST, 2)),
    ],
)
def test_a_panel_is_as_large_as_its_image_unless_that_is_small(
    size: tuple[int, int], scaled: tuple[int, int], own: tuple[int, int]
) -> None:
    assert fitted(*size) == scaled
    assert fitted(*size, largest=None) == own


def test_panels_stand_in_a_row_under_their_titles() -> None:
    panels = [("left", Image.new("RGB", (400, 30), "red")), ("right", Image.new("RGB", (400, 30), "blue"))]
    pixels = np.asarray(titled_row(panels, text=2 * TEXT, below=50))
    top = MARGIN + 2 * LINE
    assert pixels.shape == (top + 30 + 50 + MARGIN, 2 * MARGIN + 2 * 400 + GAP, 3)
    assert (pixels[top : top + 30, MARGIN : MARGIN + 400] == (255, 0, 0)).all()
    assert (pixels[top : top + 30, MARGIN + 400 + GAP : -MARGIN] == (0, 0, 255)).all()
    for left in (MARGIN, MARGIN + 400 + GAP):
        assert pixels[MARGIN:top, left : left + 60].min() < 100, "no title"


def test_a_text_is_cut_to_its_room() -> None:
    assert cut("short", TEXT, 500) == "short"
    shortened = cut("a text that is much too long", TEXT, 100)
    assert shortened.endswith("..")
    assert length(shortened, TEXT) <= 100
