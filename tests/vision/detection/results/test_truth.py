"""Annotations of image files, found by the names of the files and of the classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_core.errors import KDError
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.results.objects import Objects, annotated_objects, coco_results, decoded
from kd_vision.detection.results.truth import Truth, read_truth

INFO = DetectionInfo.of(Categories.of({3: "cat", 5: "dog"}))
POLYGON = [[10, 10, 30, 10, 30, 40, 10, 40]]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three images, two of one name in two folders."""
    paths = [tmp_path / "a" / "one.png", tmp_path / "b" / "one.png", tmp_path / "b" / "two.png"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (60, 50)).save(path)
    return paths


def entry(number: int, image: int, category: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [10, 10, 20, 30],
        "area": 600,
        "iscrowd": 0,
        "segmentation": POLYGON,
        **more,
    }


def written(folder: Path, *, names: tuple[str, ...] = ("a/one.png", "b/one.png", "two.png"), **more: Any) -> Path:
    """A file whose categories have other ids than the model's, and other images, too."""
    images = [{"id": 20 - k, "file_name": name, "width": 60, "height": 50} for k, name in enumerate(names)]
    content = {
        "images": [*images, {"id": 50, "file_name": "elsewhere.png", "width": 9, "height": 9}],
        "annotations": [entry(1, 20, 8), entry(2, 18, 1), entry(3, 50, 8), entry(4, 18, 8, iscrowd=1)],
        "categories": [{"id": 1, "name": "dog"}, {"id": 8, "name": "cat"}],
        **more,
    }
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json"


def test_images_are_found_by_the_end_of_their_path_and_classes_by_name(tmp_path: Path, files: list[Path]) -> None:
    truth = read_truth(written(tmp_path), files, INFO, masks=False)
    assert [truth.annotated(position).image_id for position in range(3)] == [20, 19, 18]
    assert [truth.annotated(position).labels.tolist() for position in range(3)] == [[1], [], [2, 1]]
    assert truth.annotated(2).crowds.tolist() == [False, True]
    assert truth.annotated(0).boxes.tolist() == [[10, 10, 30, 40]]


def test_masks_are_those_of_the_shapes(tmp_path: Path, files: list[Path]) -> None:
    truth = read_truth(written(tmp_path), files, INFO, masks=True)
    with Image.open(files[0]) as image:
        objects = annotated_objects(truth.of(0, image), image)
    assert objects.masks is not None
    assert objects.masks.shape == (1, 50, 60)
    assert objects.masks.sum() == 600
    assert objects.masks[0, 10:40, 10:30].all()


def test_an_image_that_cannot_be_opened_has_no_truth(tmp_path: Path, files: list[Path]) -> None:
    files[1].write_bytes(b"no image")
    truth = read_truth(written(tmp_path), files, INFO, masks=False)
    assert isinstance(truth, Truth)
    assert sorted(truth.rows) == [0, 2]


def test_an_image_of_another_size_is_refused(tmp_path: Path, files: list[Path]) -> None:
    truth = read_truth(written(tmp_path), files, INFO, masks=False)
    with pytest.raises(KDError, match=r"one.png: is 50 x 60 pixels, and .*truth.json says 60 x 50"):
        truth.of(0, Image.new("RGB", (50, 60)))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"names": ("a/one.png", "b/two.png"), "annotations": []}, None),
        ({"names": ("x/one.png", "y/one.png", "two.png")}, r"contains 2 images one.png"),
        ({"names": ("one.png",)}, r"contains no image two.png"),
        ({"categories": [{"id": 1, "name": "dog"}, {"id": 8, "name": "cow"}]}, r"annotation 1 is of the category 8"),
        ({"annotations": [entry(1, 20, 8, bbox=[1, 2, 3])]}, r"annotation 1 has a 'bbox' that is not four numbers"),
        ({"categories": 3}, r"truth.json: has no list .categories."),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, files: list[Path], more: dict[str, Any], message: str | None) -> None:
    path = written(tmp_path, **more)
    if message is None:
        assert read_truth(path, [files[0], files[2]], INFO, masks=False).annotated(1).image_id == 19
        return
    with pytest.raises(KDError, match=message):
        read_truth(path, files, INFO, masks=False)


def test_results_hold_masks_and_keypoints_as_pycocotools_reads_them() -> None:
    masks = np.zeros((1, 50, 60), bool)
    masks[0, 10:40, 10:30] = True
    points = np.array([[[1.5, 2.5, 2], [3, 4, 2]]], np.float32)
    scores = np.array([0.1], np.float32)
    found = Objects(np.array([[0.1, 10, 30, 40]], np.float32), np.array([2]), scores, masks, points)
    (result,) = json.loads(json.dumps(coco_results(found, 7, "one.png", INFO.category_ids)))
    assert (result["image_id"], result["category_id"], result["file_name"]) == (7, 5, "one.png")
    assert result["bbox"] == [float(np.float32(0.1)), 10, 30 - float(np.float32(0.1)), 30]
    assert result["score"] == float(np.float32(0.1))
    assert result["keypoints"] == [1.5, 2.5, 1, 3, 4, 1]
    assert np.array_equal(decoded([result["segmentation"]]), masks)
