"""Reports on runs: what is in the page, that it is whole in itself, and that no text in it is more than text."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kd_core
from kd_core.class_figures import ClassFigures
from kd_core.errors import KDError
from kd_core.files import json_text
from kd_core.report.charts import POINTS, Curve, Scale, chart, pieces, thinned, tick_text, ticks
from kd_core.report.history import History, grouped, spread
from kd_core.report.page import SCRIPT
from kd_core.report.report import duration, report

HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\u202e"
CONFIG = """
task: image_classification
data: {name: digits}
models: {student: {arch: cnn, width: 4}}
seed: SEED
stages:
  distill:
    epochs: 2
    batch_size: 8
    losses: {ce: {loss: cross_entropy, weight: WEIGHT}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


def make_run(
    folder: Path, *, seed: int = 0, weight: float = 1.0, epochs: int = 3, name: str = "ce", best: float = 90.0
) -> Path:
    """The folder of a run that has ended, without a student."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.replace("SEED", str(seed)).replace("WEIGHT", str(weight)))
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        place = {"stage": "distill", "epoch": epoch, "step": 10 * epoch}
        loss = 2.0 / epoch + seed
        rows.append({**place, "lr": 0.1 / epoch, "train": {"loss": loss, name: loss}, "seconds": 1.5})
        rows.append({**place, "val": {"top1": best - 10 / epoch, "iou/x": 1.0}})
    (folder / "metrics.jsonl").write_text("".join(json_text(row) + "\n" for row in rows))
    metrics = {"top1": best, "ap/x": 3.0}
    result = {"metrics": metrics, "best": None, "samples": 50, "split": "test", "warnings": [HOSTILE]}
    (folder / "result.json").write_text(json_text(result))
    return folder


def steps(folder: Path, losses: list[float | None], name: str = "ce") -> None:
    lines = [
        {
            "stage": "distill", "epoch": 0, "step": step, "total": step, "loss": loss, "terms": {name: loss, "kd": 1.0},
            "weighted": {name: loss, "kd": 0.5}, "lr": 0.1, "samples_per_second": 100.0 + step,
        }
        for step, loss in enumerate(losses, 1)
    ]  # fmt: skip
    (folder / "steps.jsonl").write_text("".join(json_text(line) + "\n" for line in lines))


def text_of(out: Path, *runs: Path) -> str:
    return report(runs, out / "report.html", worst=0).read_text()


class Tags(HTMLParser):
    """The tags of a page with their attributes; open ones must be closed in order."""

    VOID = ("meta", "img", "br", "line", "circle", "polyline", "polygon", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID[:3]:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_in_itself_and_texts_in_it_are_texts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "<b>run", name=HOSTILE)
    steps(run, [2.0, 1.0, 0.5], HOSTILE)
    figures = ClassFigures((HOSTILE, "b"), {"f1": [1.0, None]}, np.array([[3, 1], [0, 2]]))
    (run / "classes.json").write_text(json_text(figures.as_record()))
    (run / "log.txt").write_text(f"2026-01-01 00:00:00 run folder: x\n2026-01-01 00:00:00 data: train: {HOSTILE}\n")
    (run / "student").mkdir()
    lineage = {"student": {"arch": HOSTILE, "parameters": 7}, "models": {HOSTILE: {"zoo": HOSTILE}}}
    (run / "student/lineage.json").write_text(json.dumps(lineage))
    text = text_of(tmp_path, run)
    parsed = Tags(text)
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert scripts == [{}]
    assert text.count(f"<script>{SCRIPT}</script>") == 1
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
    links = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(str(link).startswith(("#", "data:")) for link in links)
    assert "://" not in text
    assert "url(" not in text


def test_only_the_pages_own_script_runs(tmp_path: Path) -> None:
    text = text_of(tmp_path, make_run(tmp_path / "run"))
    policy = unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1])  # type: ignore[index]
    digest = re.search(r"script-src 'sha256-([^']+)'", policy)
    assert digest is not None
    assert b64decode(digest[1]) == hashlib.sha256(SCRIPT.encode()).digest()
    assert policy.startswith("default-src 'none'")


def test_a_run_is_told_in_full(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    steps(run, [2.0, 1.0, 0.5])
    text = text_of(tmp_path, run)
    for title in ("validation: top1", "training loss and its weighted terms", "learning rate", "samples per second"):
        assert f"<h4>{title}</h4>" in text
    assert "<b>90</b>" in text
    assert "50 samples of the test split" in text
    assert "102 samples per second" in text
    assert "iou/x" not in text
    assert "ap/x" not in text
    assert "lr: 0.1" in text
    assert "3 epochs in 4.5 s" in text


def test_a_run_of_one_epoch_and_one_that_goes_on_are_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    (run / "result.json").unlink()
    text = text_of(tmp_path, run)
    assert "<circle" in text
    assert "the run has not ended" in text


def test_values_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    steps(run, [3.0, 2.0, None, None, 1.0, 0.5])
    text = text_of(tmp_path, run)
    assert "2 values are not finite" in text
    assert pieces([(1, 1.0), (2, None), (3, float("inf")), (4, 2.0), (5, 3.0)]) == [[(1, 1.0)], [(4, 2.0), (5, 3.0)]]
    assert "No finite value" in chart("x", [Curve("a", [(1, None)])])


def test_damaged_files_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"half\n{"cut')
    (run / "classes.json").write_text('{"classes": [1]}')
    (run / "manifest.json").write_text("[" * 20_000)
    (run / "steps.jsonl").write_text("null\n")
    history = History.read(run)
    assert history.faults == [
        "2 lines of metrics.jsonl are damaged",
        "1 line of steps.jsonl are damaged",
        "classes.json is damaged",
        "manifest.json is damaged",
    ]
    assert "classes.json is damaged" in text_of(tmp_path, run)


def test_seeds_of_one_config_are_a_mean_with_a_band(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"kd-{seed}", seed=seed, best=90.0 + seed) for seed in range(3)]
    other = make_run(tmp_path / "ce", weight=0.5)
    groups = grouped([History.read(run) for run in [*runs, other]])
    assert [(group.name, len(group.runs)) for group in groups] == [("kd", 3), ("ce", 1)]
    text = text_of(tmp_path, *runs, other)
    assert "<td>91 ± 1</td>" in text
    assert 'class="band"' in text
    assert "kd, mean of 3" in text
    assert "stages.distill.losses.ce.weight" in text
    assert text.count("<h1>2 configs compared</h1>") == 1
    assert "<h1>kd, 3 seeds</h1>" in text_of(tmp_path, *runs)


def test_the_mean_is_of_places_that_all_have() -> None:
    means, band = spread([[(1, 1.0), (2, 3.0), (3, None)], [(1, 3.0), (2, 3.0), (3, 1.0), (4, 1.0)]])
    assert means == [(1, 2.0), (2, 3.0)]
    assert band[0] == pytest.approx((1, 2 - 2**0.5, 2 + 2**0.5))


@pytest.mark.parametrize("count", [3, 100, 500])
def test_many_classes_have_a_place(tmp_path: Path, count: int) -> None:
    run = make_run(tmp_path / "run")
    matrix = np.eye(count, dtype=np.int64) * 9
    matrix[0, 1] = 5
    names = tuple(f"class {number} with a rather long name" for number in range(count))
    record = ClassFigures(names, {"f1": [0.5] * count}, matrix).as_record()
    (run / "classes.json").write_text(json_text(record))
    text = text_of(tmp_path, run)
    Tags(text)
    assert (f"All {count} classes" in text) == (count > 30)
    assert ('class="heat"' in text) == (count == 3)
    assert ('class="map"' in text) == (count == 100)
    assert "<td>35.7</td>" in text


def test_what_is_not_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="is not a run folder"):
        report([tmp_path / "none"], tmp_path / "report.html")
    with pytest.raises(KDError, match="is a folder"):
        report([make_run(tmp_path / "run")], tmp_path)


def test_axes_have_round_numbers() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(130, 1000) == [200, 400, 600, 800, 1000]
    assert ticks(5, 5) == [5]
    assert [tick_text(value) for value in (0, 1e-17, 12_000, 0.05, 2.5e6, 3e9)] == [
        "0",
        "0",
        "12k",
        "0.05",
        "2.5M",
        "3G",
    ]
    assert Scale.of([Curve("a", [(20, 1.0), (600, 1.0)])]).x0 == 0
    assert [duration(seconds) for seconds in (4.5, 600, 9000)] == ["4.5 s", "10.0 min", "2.5 h"]


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    points = [(float(number), 1.0) for number in range(5000)]
    few = thinned(points)
    assert len(few) <= POINTS + 1
    assert (few[0], few[-1]) == (points[0], points[-1])


def test_the_folder_of_a_study_stands_for_its_runs(tmp_path: Path) -> None:
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    with pytest.raises(KDError, match=r"no run of the study .* has begun"):
        report([study], tmp_path / "report.html")
    for number in range(2):
        make_run(study / f"{number:03d}", seed=number)
    (study / "002").mkdir()
    assert "2 seeds</h1>" in text_of(tmp_path, study)
    make_run(study / "003", weight=0.5)
    columns = [{"method": "kd"}, {"method": "kd"}, {}, {"method": "crd", "lr": 0.1}]
    (study / "study.json").write_text(json_text({"runs": [{"columns": values} for values in columns]}))
    assert [History.read(study / name).title for name in ("000", "003")] == ["kd", "method crd, lr 0.1"]
    assert '<td class="text">method crd, lr 0.1</td>' in text_of(tmp_path, study)


def test_a_notebook_shows_the_curves_of_runs_in_a_frame(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", weight=2.0)]
    shown = kd_core.curves(*runs, height=300)._repr_html_()
    [(tag, attributes)] = Tags(shown).tags
    assert tag == "iframe"
    assert "height: 300px" in str(attributes["style"])
    inside = str(attributes["srcdoc"])
    assert "validation: top1" in inside
    assert "<h2>" not in inside, "the report has further sections, this has curves alone"
    assert Tags(inside).tags
    assert HOSTILE not in inside


def test_a_notebook_shows_a_report_in_a_frame(tmp_path: Path) -> None:
    out = report([make_run(tmp_path / "a")], tmp_path / "report.html", worst=0)
    [(_, attributes)] = Tags(kd_core.frame(out)._repr_html_()).tags
    assert attributes["srcdoc"] == out.read_text()
    with pytest.raises(KDError, match=r"no\.html is not a page that can be read"):
        kd_core.frame(tmp_path / "no.html")
    with pytest.raises(KDError, match="name at least one"):
        kd_core.curves()
