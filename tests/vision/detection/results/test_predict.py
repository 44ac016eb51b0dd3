"""``kd-vision predict`` of detectors: what is found, drawn and in COCO's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kd_core.errors import KDError
from kd_core.pictures import GAP, MARGIN, TEXT, line_of, saved_by
from kd_vision.detection.results.objects import decoded, detections
from kd_vision.detection.results.pictures import ALPHA, MADE_BY, class_colours, letters

from .flat_colours import COLOURS, IMAGES, SIZE, FlatColours, answers, kd_vision, refused


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
    for wrong in ("2", "nan"):
        refused(kd_vision("predict", root / "teacher", image, "--out", tmp_path, "--threshold", wrong), "--threshold")


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
    refused(done, "2 of 4 images failed; the others are done")
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


def test_an_image_that_a_model_cannot_take_is_reported_and_the_others_are_done(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = FlatColours.found

    def scaled(model: FlatColours, image: Tensor) -> dict[str, Tensor]:
        """As torchvision's detectors, which cannot scale such an image to their largest side."""
        if image.shape[1] * 100 // image.shape[2] == 0:
            raise RuntimeError("the output's height is 0")
        return found(model, image)

    monkeypatch.setattr(FlatColours, "found", scaled)
    Image.new("RGB", (3000, 2)).save(tmp_path / "narrow.png")
    Image.new("RGB", (80, 60)).save(tmp_path / "black.png")
    files = (tmp_path / "narrow.png", tmp_path / "black.png")
    done = kd_vision("predict", root / "teacher", *files, "--out", tmp_path / "out", "--json")
    refused(done, "1 of 2 images failed; the others are done")
    assert "the forward pass on an image of 3000 x 2 pixels" in done.stderr
    assert "no image is brighter than" in done.stderr
    assert "16-bit" not in done.stderr
    answer = json.loads(done.stdout)
    assert [[image["name"] for image in answer[key]] for key in ("images", "failed")] == [["black"], ["narrow"]]


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
    right = {"boxes": boxes, "labels": labels, "scores": scores}
    wrong: dict[str, dict[str, Any]] = {
        "a tensor 'scores'": {"scores": None},
        "'boxes' .* not finite": {"boxes": boxes * torch.nan},
        "'keypoints' .* not finite": {"keypoints": torch.full((1, 2, 3), torch.inf)},
        "'masks' .* is a tensor": {"masks": torch.zeros(1, 1, 10, 11)},
        "detected the label 4": {"labels": 4 * labels},
        "detected the label 0": {"labels": 0 * labels},
    }
    for message, values in wrong.items():
        with pytest.raises(KDError, match=f"^models.student: .*{message}"):
            detections({**right, **values}, 4, (10, 10), "student")
    assert len(detections(right, 4, (10, 10), "student")) == 1


def test_masks_are_drawn_and_written(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
