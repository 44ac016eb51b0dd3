"""``kd-vision predict`` and ``kd-vision eval --report`` of detectors: what is found, drawn and in files."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

import kd_vision.detection.task
from kd_core.models.registry import MODELS
from kd_core.pictures import GAP, MARGIN, TEXT, line_of, saved_by
from kd_vision.cli import main
from kd_vision.detection.results.errors import MISSED
from kd_vision.detection.results.objects import decoded, detections
from kd_vision.detection.results.pictures import ALPHA, MADE_BY, class_colours, letters
from kd_vision.detection.results.report import COLOURS as ERROR_COLOURS

SIZE = (340, 500)
NASTY = "<script>alert(1)</script>"
CATEGORIES = [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}, {"id": 11, "name": NASTY}]
"""In the order of their ids they have the labels 2, 1 and 3."""
LABELS = {3: 1, 7: 2, 11: 3}
COLOURS = {1: (0, 0, 255), 2: (255, 0, 0), 3: (0, 255, 0)}
IMAGES: list[list[tuple[int, tuple[int, int, int, int]]]] = [
    [(7, (20, 30, 120, 130)), (3, (200, 100, 300, 300))],
    [(3, (50, 60, 250, 260))],
    [(11, (100, 100, 200, 200)), (7, (250, 20, 330, 90)), (3, (250, 200, 400, 300))],
]
"""The objects of each image: category and x1, y1, x2, y2."""


@MODELS("flat_colours")
class FlatColours(nn.Module):
    """Finds one area of each pure colour, its box moved by ``shift`` pixels; ``wrong`` is a label it takes for 1."""

    masks = False

    def __init__(self, *, num_classes: int = 4, shift: int = 0, wrong: int = 0) -> None:
        super().__init__()
        self.shift, self.wrong = shift, wrong
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if self.training:
            return {"fit": self.weight.square().sum()}
        return [self.found(image) for image in images]

    def found(self, image: Tensor) -> dict[str, Tensor]:
        boxes, labels, masks = [], [], []
        for label, colour in COLOURS.items():
            area = (image == torch.tensor(colour)[:, None, None] / 255).all(0)
            if area.any():
                rows, columns = area.any(1).nonzero(), area.any(0).nonzero()
                box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                boxes.append([float(edge) + self.shift for edge in box])
                labels.append(1 if label == self.wrong else label)
                masks.append(area[None].float())
        output = {
            "boxes": torch.tensor(boxes).reshape(-1, 4) * self.weight,
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor([0.9 - 0.3 * number for number in range(len(boxes))]),
        }
        return {**output, "masks": torch.stack(masks)} if self.masks and masks else output


CONFIG = """
task: object_detection
data:
  {name: coco_json, root: ROOT, annotations: all.json, images: images, val_annotations: all.json, workers: 0}
models:
  student: {arch: flat_colours}
stages:
  train:
    epochs: 1
    batch_size: 3
    losses: {fit: {loss: identity, value: student.output/loss}}
    optimizer: !call:torch.optim.SGD {lr: 0.0}
"""
DISTILLED = CONFIG.replace("  student: {", "  teacher: {run: ROOT/teacher}\n  student: {wrong: 2, shift: 10, ")


def kd_vision(*arguments: str | Path) -> Result:
    torch.set_num_threads(1)
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and annotations, and two runs: ``teacher``, and ``student``, whose config names it."""
    root = tmp_path_factory.mktemp("root")
    (root / "images").mkdir()
    annotations, images = [], []
    for number, objects in enumerate(IMAGES):
        pixels = np.full((*SIZE, 3), 120, np.uint8)
        for category, (left, top, right, bottom) in objects:
            pixels[top:bottom, left:right] = COLOURS[LABELS[category]]
            box = [left, top, right - left, bottom - top]
            entry = {"id": len(annotations) + 1, "image_id": 100 + number, "category_id": category, "bbox": box}
            polygon = [left, top, right, top, right, bottom, left, bottom]
            annotations.append({**entry, "iscrowd": 0, "area": box[2] * box[3], "segmentation": [polygon]})
        name = f"image{number}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        images.append({"id": 100 + number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "all.json").write_text(json.dumps(content))
    for name, text in (("teacher", CONFIG), ("student", DISTILLED)):
        (root / f"{name}.yaml").write_text(text.replace("ROOT", str(root)))
        done = kd_vision("train", root / f"{name}.yaml", "--out", root / name)
        assert done.exit_code == 0, done.output
    return root


def answers(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Result, message: str) -> None:
    """One message, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def panels(path: str | Path, count: int) -> list[np.ndarray]:
    """The panels of a picture of an image of :data:`SIZE`."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    top = MARGIN + line_of(max(TEXT, letters(*SIZE)))
    assert pixels.shape[1] == 2 * MARGIN + count * (SIZE[1] + GAP) - GAP
    lefts = [MARGIN + number * (SIZE[1] + GAP) for number in range(count)]
    return [pixels[top : top + SIZE[0], left : left + SIZE[1]] for left in lefts]


def test_images_are_drawn_at_their_own_size(root: Path, tmp_path: Path) -> None:
    found = answers(kd_vision("predict", root / "teacher", root / "images", "--out", tmp_path, "--json"))
    assert [image["name"] for image in found["images"]] == ["image0", "image1", "image2"]
    assert [image["image_id"] for image in found["images"]] == [1, 2, 3]
    assert {(image["width"], image["height"]) for image in found["images"]} == {SIZE[::-1]}
    assert [image["objects"] for image in found["images"]] == [
        {"student": {"blue": 1, "red": 1}},
        {"student": {"blue": 1}},
        {"student": {"blue": 1, "red": 1}},  # the third has a score of 0.3
    ]
    (drawn,) = panels(found["images"][1]["picture"], 1)
    assert tuple(drawn[150, 50]) == class_colours(4)[1]
    assert tuple(drawn[150, 150]) == COLOURS[1]
    assert tuple(drawn[150, 20]) == (120, 120, 120)


def test_results_have_the_ids_of_the_data_set_and_all_detections(root: Path, tmp_path: Path) -> None:
    found = answers(kd_vision("predict", root / "teacher", "--split", "val", "--out", tmp_path, "--json"))
    assert found["predictions"] == str(tmp_path / "predictions.json")
    results = json.loads((tmp_path / "predictions.json").read_text())
    assert [(entry["image_id"], entry["category_id"]) for entry in results] == [
        *((100, 3), (100, 7), (101, 3)),
        *((102, 3), (102, 7), (102, 11)),
    ]
    assert results[0]["bbox"] == [200, 100, 100, 200]
    assert [entry["score"] for entry in results[3:]] == pytest.approx([0.9, 0.6, 0.3])
    assert {entry["file_name"] for entry in results} == {"image0.png", "image1.png", "image2.png"}


def test_pycocotools_reads_the_results(root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    options = ("--truth", root / "all.json", "--out", tmp_path, "--json")
    answers(kd_vision("predict", root / "teacher", root / "images", *options))
    truth = COCO(str(root / "all.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "predictions.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capfd.readouterr()
    assert evaluation.stats[0] == pytest.approx(1)


def test_truth_teacher_and_student_stand_side_by_side(root: Path, tmp_path: Path) -> None:
    options = ("--truth", root / "all.json", "--out", tmp_path, "--json")
    found = answers(kd_vision("predict", root / "student", root / "images", *options))["images"]
    assert [list(image["objects"]) for image in found] == [["truth", "teacher", "student"]] * 3
    assert found[0]["objects"]["truth"] == {"red": 1, "blue": 1}
    assert found[0]["objects"]["student"] == {"blue": 2}
    assert [image["image_id"] for image in found] == [100, 101, 102]
    truth, teacher, student = panels(found[1]["picture"], 3)
    blue = class_colours(4)[1]
    assert tuple(truth[200, 50]) == tuple(teacher[200, 50]) == tuple(student[200, 60]) == blue
    assert tuple(student[200, 50]) == COLOURS[1], "its box is 10 pixels further"
    alone = answers(kd_vision("predict", root / "student", root / "images", *options, "--no-teacher"))["images"]
    assert [list(image["objects"]) for image in alone] == [["truth", "student"]] * 3


def test_the_threshold(root: Path, tmp_path: Path) -> None:
    image = root / "images/image2.png"
    for threshold, count in (("0", 3), ("0.61", 1), ("1", 0)):
        done = kd_vision("predict", root / "teacher", image, "--out", tmp_path, "--threshold", threshold, "--json")
        (found,) = answers(done)["images"]
        assert sum(found["objects"]["student"].values()) == count
        assert len(json.loads((tmp_path / "predictions.json").read_text())) == 3
    refused(kd_vision("predict", root / "teacher", image, "--out", tmp_path, "--threshold", "2"), "--threshold")


def test_a_line_for_each_image(root: Path, tmp_path: Path) -> None:
    done = kd_vision("predict", root / "student", "--split", "val", "--limit", "2", "--out", tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0] == f"{tmp_path / 'image0.png'}  500x340  blue 2"
    done = kd_vision("predict", root / "teacher", root / "images/image2.png", "--threshold", "1", "--out", tmp_path)
    assert done.stdout.endswith("500x340  nothing\n")


def test_an_unreadable_image_is_reported_and_the_others_are_done(root: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((root / "images/image0.png").read_bytes()[:200])
    files = (root / "images/image0.png", tmp_path / "broken.png", tmp_path / "missing.png", root / "images/image1.png")
    done = kd_vision("predict", root / "teacher", *files, "--out", tmp_path / "out", "--json")
    refused(done, "2 of 4 images could not be read; the others are done")
    assert "broken.png: is not a readable image" in done.stderr
    assert "there is no file" in done.stderr
    found = json.loads(done.stdout)
    assert [image["name"] for image in found["images"]] == ["image0", "image1"]
    assert [image["name"] for image in found["failed"]] == ["broken", "missing"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "image0.png",
        "image1.png",
        "predictions.json",
    ]
    assert {entry["image_id"] for entry in json.loads((tmp_path / "out/predictions.json").read_text())} == {1, 4}


def test_a_photo_is_turned_as_its_file_says(root: Path, tmp_path: Path) -> None:
    with Image.open(root / "images/image1.png") as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        image.save(tmp_path / "turned.png", exif=exif)
    (found,) = answers(kd_vision("predict", root / "teacher", tmp_path / "turned.png", "--out", tmp_path, "--json"))[
        "images"
    ]
    assert (found["width"], found["height"]) == SIZE
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    left, top, right, bottom = IMAGES[1][0][1]
    assert entry["bbox"] == [SIZE[0] - bottom, left, bottom - top, right - left]
    assert Path(found["picture"]).name == "turned-2.png", "the photo itself is not overwritten"


def test_earlier_pictures_are_replaced_and_other_files_never(root: Path, tmp_path: Path) -> None:
    image = tmp_path / "image0.png"
    image.write_bytes((root / "images/image0.png").read_bytes())
    before = image.read_bytes()
    for _ in range(2):
        kd_vision("predict", root / "teacher", image, "--out", tmp_path)
    assert image.read_bytes() == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["image0-2.png", "image0.png", "predictions.json"]
    assert saved_by(tmp_path / "image0-2.png", MADE_BY)
    (tmp_path / "predictions.json").write_text('{"mine": 1}')
    refused(kd_vision("predict", root / "teacher", image, "--out", tmp_path), "is not a file of results")
    assert json.loads((tmp_path / "predictions.json").read_text()) == {"mine": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "out"], "name a run folder or a config"),
        (["RUN", "--out", "out"], "name images, or a split with --split"),
        (["RUN", "empty", "--out", "out"], "empty: contains no image"),
        (["RUN", "--split", "vol", "--out", "out"], "did you mean 'val'?"),
        (["RUN", "--split", "test", "--out", "out"], "--split train or val"),
        (["RUN", "images", "--teacher", "--out", "out"], "has no model 'teacher'"),
        (["RUN", "images", "--truth", "none.json", "--out", "out"], "none.json: cannot be read"),
        (["RUN", "other.png", "--truth", "all.json", "--out", "out"], "all.json: contains no image other.png"),
        (["RUN", "images", "--truth", "unknown.json", "--out", "out"], "annotation 1 is of the category 5"),
        (["nowhere", "images", "--out", "out"], "nowhere"),
    ],
)
def test_what_is_wrong_is_said(root: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(root)
    Path("empty").mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save("other.png")
    content = json.loads(Path("all.json").read_text())
    content["categories"].append({"id": 5, "name": "zebra"})
    content["annotations"][0]["category_id"] = 5
    Path("unknown.json").write_text(json.dumps(content))
    refused(kd_vision("predict", *("teacher" if word == "RUN" else word for word in arguments)), message)
    assert not Path("out").exists()


def test_a_classifier_draws_no_boxes(tmp_path: Path, root: Path) -> None:
    config = tmp_path / "digits.yaml"
    config.write_text("task: image_classification\ndata: {name: cifar10}\nmodels: {student: {zoo: resnet56}}\n")
    for arguments, verb in (
        (("predict", config, root / "images", "--out", tmp_path / "out"), "predict"),
        (("eval", config, "--report", tmp_path / "out"), "eval --report"),
    ):
        refused(kd_vision(*arguments), f"is of the task image_classification: {verb} is of object_detection alone")
    assert not (tmp_path / "out").exists()


def test_a_model_that_fails_is_named(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: FlatColours, image: Tensor) -> dict[str, Tensor]:
        raise ValueError("too small")

    monkeypatch.setattr(FlatColours, "found", fails)
    message = "models.student: the forward pass on an image of 500 x 340 pixels failed: ValueError: too small"
    refused(kd_vision("predict", root / "teacher", root / "images", "--out", tmp_path), message)


def test_outputs_that_are_no_detections_are_refused() -> None:
    boxes, labels, scores = torch.zeros(1, 4), torch.ones(1, dtype=torch.int64), torch.ones(1)
    for output, message in (
        ({"boxes": boxes, "labels": labels}, "no scores"),
        ({"boxes": boxes * torch.nan, "labels": labels, "scores": scores}, "not finite"),
        ({"boxes": boxes, "labels": 4 * labels, "scores": scores}, "detects the class 4"),
        ({"boxes": boxes, "labels": 0 * labels, "scores": scores}, "detects the class 0"),
    ):
        with pytest.raises(Exception, match=message):
            detections(output, 4, (10, 10), "student")


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


def test_masks_are_drawn_written_and_scored(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FlatColours, "masks", True)
    options = ("--set", "data.masks=true")
    (found,) = answers(
        kd_vision(
            *("predict", root / "teacher", root / "images/image1.png", "--truth", root / "all.json"),
            *("--out", tmp_path, "--json", *options),
        )
    )["images"]
    mixed = np.round((1 - ALPHA) * np.array(COLOURS[1]) + ALPHA * np.array(class_colours(4)[1]))
    for drawn in panels(found["picture"], 2):
        assert drawn[150, 150] == pytest.approx(mixed)
        assert tuple(drawn[150, 20]) == (120, 120, 120)
    (entry,) = json.loads((tmp_path / "predictions.json").read_text())
    left, top, right, bottom = IMAGES[1][0][1]
    assert decoded([entry["segmentation"]])[0].sum() == (right - left) * (bottom - top)
    done = kd_vision("eval", root / "student", "--report", tmp_path, *options)
    assert done.exit_code == 0, done.output
    page = Page((tmp_path / "report.html").read_text())
    assert page.tags.count("svg") == 2
    missed = np.round((1 - ALPHA) * np.array(COLOURS[3]) + ALPHA * np.array(ERROR_COLOURS[MISSED]))
    truth = np.asarray(page.pictures[0])[:, : SIZE[1]].astype(int)
    assert (np.abs(truth - missed) < 12).all(-1).sum() > 5000, "no mask of what is missed"


def test_a_report_names_its_file_and_needs_one_for_worst(root: Path, tmp_path: Path) -> None:
    done = kd_vision("eval", root / "teacher", "--report", tmp_path, "--worst", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == str(tmp_path)
    assert re.search(r"^ap +100$", done.stdout, re.MULTILINE)
    assert Page((tmp_path / "report.html").read_text()).pictures == []
    refused(kd_vision("eval", root / "teacher", "--worst", "3"), "--worst is for --report")
