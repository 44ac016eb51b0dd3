"""Pages and curves: every text stays text, and numbers are where they belong."""

from __future__ import annotations

from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from kd_core.report.page import escape, mark, page, picture, table
from kd_vision.detection.matching import Curves
from kd_vision.detection.results.curves import across, down, precision_recall, svg

NASTY = "<script>alert('\"&')</script>\x1b[2J"


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_text_has_no_meaning_wherever_it_stands() -> None:
    parts = [table([NASTY], [[NASTY, 3]]), picture(b"abc", "image/jpeg", NASTY, NASTY), mark((1, 2, 3), NASTY)]
    parts.append(svg({NASTY: np.linspace(100, 0, 101)}, NASTY))
    made = page(NASTY, parts)
    read = Tags(made)
    assert "script" not in read.tags
    assert made.count("<script") == 0
    assert read.text.count("<script>alert('\"&')</script>\\x1b[2J") == 7
    assert "\x1b" not in made
    assert 'src="data:image/jpeg;base64,YWJj"' in made


def test_a_page_loads_nothing() -> None:
    assert "default-src &#x27;none&#x27;" in page("a", [])
    assert escape(3.5) == "3.5"


def curves_of(precision: np.ndarray) -> Curves:
    """The curves of three labels: precision (thresholds, recalls, labels, areas)."""
    return Curves((1, 2, 3), precision, precision, np.zeros((10, 3, 4, 3)))


def test_curves_are_means_over_the_classes_with_truth() -> None:
    precision = np.full((10, 101, 3, 4), -1.0)
    precision[:, :, 0, 0] = 0.2
    precision[:, :, 1, 0] = np.linspace(1, 0, 10)[:, None]
    curves = precision_recall(curves_of(precision))
    assert list(curves) == ["0.5", "0.75", "0.5:0.95"]
    assert curves["0.5"] == pytest.approx(np.full(101, 100 * (0.2 + 1) / 2))
    assert curves["0.75"] == pytest.approx(np.full(101, 100 * (0.2 + 4 / 9) / 2))
    assert curves["0.5:0.95"] == pytest.approx(np.full(101, 100 * (0.2 + 0.5) / 2))
    assert precision_recall(curves_of(np.full((10, 101, 3, 4), -1.0))) == {}


def test_a_curve_is_drawn_where_its_numbers_are() -> None:
    root = ElementTree.fromstring(svg({"0.5": np.linspace(100, 50, 101), "0.75": np.zeros(101)}, "curves"))
    lines = [element.get("points", "").split() for element in root.iter() if element.tag.endswith("polyline")]
    assert lines[0][0] == f"{across(0):.1f},{down(100):.1f}"
    assert lines[0][-1] == f"{across(100):.1f},{down(50):.1f}"
    assert lines[1][50] == f"{across(50):.1f},{down(0):.1f}"
    assert "0.5 (75.0)" in [element.text for element in root.iter()]
