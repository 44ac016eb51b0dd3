"""``kd-vision eval --report`` of detectors: the page is whole in itself, and its figures are those of the score."""

from __future__ import annotations

import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.report.samples import worst_samples
from kd_vision.detection.results.errors import MISSED
from kd_vision.detection.results.pictures import ALPHA
from kd_vision.detection.results.report import COLOURS as ERROR_COLOURS

from .flat_colours import COLOURS, NASTY, SIZE, FlatColours, answers, kd_vision, refused


class Page(HTMLParser):
    """The tags, the cells of tables and the pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[list[str]] = []
        self.pictures: list[Image.Image] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag == "img":
            _, _, content = str(dict(attrs)["src"]).partition("base64,")
            self.pictures.append(Image.open(BytesIO(b64decode(content))))

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] and self.tags[-1] in ("td", "th"):
            self.cells[-1][-1] += data.strip()


def test_a_report(root: Path, tmp_path: Path) -> None:
    plain = answers(kd_vision("eval", root / "student", "--json"))
    done = kd_vision("eval", root / "student", "--report", tmp_path, "--worst", "2", "--json")
    assert answers(done)["metrics"] == pytest.approx(plain["metrics"], nan_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert "script" not in page.tags
    assert "http://" not in text
    assert page.tags.count("svg") == 1
    assert [picture.size[0] > 2 * 500 for picture in page.pictures] == [True, True]
    rows = {row[0]: row[1:] for row in page.cells if row}
    assert rows["ap"] == [f"{plain['metrics']['ap']:.2f}"]
    # blue is found thrice, once well enough; two reds are taken for blue, and the third colour has a score too low
    head = rows["class"]
    blue = dict(zip(head, rows["blue"], strict=True))
    assert (blue["objects"], blue["boxes"]) == ("3", "5")
    assert blue["AP"] == f"{plain['metrics']['ap/blue']:.2f}"
    assert blue["wrong class"] == rows["wrong class"][-1] == "2"
    third = dict(zip(head, rows[NASTY], strict=True))
    assert (third["objects"], third["boxes"], third["missed"]) == ("1", "0", "1")
    assert rows["missed"][-1] == "1"


def test_a_report_names_its_file_and_needs_one_for_worst(root: Path, tmp_path: Path) -> None:
    done = kd_vision("eval", root / "teacher", "--report", tmp_path, "--worst", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(tmp_path)
    assert re.search(r"^ap +100$", done.stdout, re.MULTILINE)
    assert Page((tmp_path / "report.html").read_text()).pictures == []
    refused(kd_vision("eval", root / "teacher", "--worst", "3"), "--worst is for --report")


def test_masks_are_drawn(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlatColours, "masks", True)
    done = kd_vision("eval", root / "student", "--report", tmp_path, "--set", "data.masks=true")
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("svg") == 2
    missed = np.round((1 - ALPHA) * np.array(COLOURS[3]) + ALPHA * np.array(ERROR_COLOURS[MISSED]))
    truth = np.asarray(page.pictures[0])[:, : SIZE[1]].astype(int)
    assert (np.abs(truth - missed) < 12).all(-1).sum() > 5000, "no mask of what is missed"


def test_the_worst_images_of_a_runs_report(root: Path) -> None:
    worst = worst_samples(root / "student", 2)
    assert worst.viewer.wide
    errors = [loss for loss, _ in worst.views]
    assert errors == sorted(errors, reverse=True)
    for loss, view in worst.views:
        assert sum(int(part.split()[0]) for part in view.facts[view.name].split(", ")) == loss
        assert view.picture is not None
