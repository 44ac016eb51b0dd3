"""The matching of detections with objects, in every number that pycocotools computes, on data full of ties."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from kd_core.data.batch import Batch
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.matching import Rules, box_overlap
from kd_vision.detection.metrics import DetectionMetrics

SIDES = st.sampled_from([(0, 8), (0, 16), (4, 12), (0, 40), (10, 50), (0, 120), (5, 125)])
BOXES = st.builds(lambda x, y: [x[0], y[0], x[1] - x[0], y[1] - y[0]], SIDES, SIDES)
OBJECTS = st.tuples(BOXES, st.sampled_from([1, 2]), st.sampled_from([16.0, 1024.0, 2500.0, 10000.0]), st.booleans())
FOUND = st.tuples(BOXES, st.sampled_from([1, 2, 3]), st.sampled_from([0.25, 0.5, 0.75]))
IMAGES = st.lists(st.tuples(st.lists(OBJECTS, max_size=5), st.lists(FOUND, max_size=6)), min_size=1, max_size=4)


def by_hand(images: Any) -> Any:
    """pycocotools' evaluation."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": k} for k in (1, 2, 3)]}
    results = []
    for number, (objects, found) in enumerate(images, 1):
        content["images"].append({"id": number})
        for box, label, area, crowd in objects:
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label}
            content["annotations"].append(entry | {"bbox": box, "area": area, "iscrowd": int(crowd)})
        results += [
            {"image_id": number, "category_id": label, "bbox": box, "score": score} for box, label, score in found
        ]
    truth, detections = COCO(), COCO()
    with redirect_stdout(StringIO()):
        truth.dataset = content
        truth.createIndex()
        if results:
            detections = truth.loadRes(results)
        else:
            detections.dataset = {**content, "annotations": []}
            detections.createIndex()
        evaluation = COCOeval(truth, detections, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def ours(images: Any) -> DetectionMetrics:
    metrics = DetectionMetrics(DetectionInfo(classes=("background", "a", "b", "c")))
    for row, (objects, found) in enumerate(images):
        truth = {
            "boxes": corners([entry[0] for entry in objects]),
            "labels": torch.tensor([entry[1] for entry in objects], dtype=torch.int64),
            "area": torch.tensor([entry[2] for entry in objects], dtype=torch.float32),
            "iscrowd": torch.tensor([entry[3] for entry in objects], dtype=torch.uint8),
            "size": torch.tensor([130, 130]),
        }
        detections = {
            "boxes": corners([entry[0] for entry in found]),
            "labels": torch.tensor([entry[1] for entry in found], dtype=torch.int64),
            "scores": torch.tensor([entry[2] for entry in found], dtype=torch.float32),
        }
        metrics.update([detections], Batch({}, [truth], torch.tensor([row])))
    metrics.compute()
    return metrics


def corners(boxes: list[list[float]]) -> torch.Tensor:
    made = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    made[:, 2:] += made[:, :2]
    return made


@given(IMAGES)
@settings(deadline=None, max_examples=15)
def test_every_number_is_pycocotools(images: Any) -> None:
    """Equal scores, equal overlaps, crowds and areas at the bounds; to the last bit."""
    expected = by_hand(images).eval
    curve = ours(images).compared["boxes"][1]
    assert np.array_equal(curve.precision, expected["precision"][..., -1])
    assert np.array_equal(curve.score, expected["scores"][..., -1])
    assert np.array_equal(curve.recall, expected["recall"])


def test_more_detections_than_count_are_left_out() -> None:
    """pycocotools takes the 100 likeliest of an image and a class."""
    wrong = [([0, 0, 8, 8], 1, 0.9)] * 99
    right = ([10, 10, 40, 40], 1, 0.5)
    for extra, recall in ((0, 1.0), (1, 0.0)):
        images = [([([10, 10, 40, 40], 1, 1600.0, False)], [*wrong, *wrong[:extra], right])]
        curve = ours(images).compared["boxes"][1]
        assert curve.recall[0, 0, 0, -1] == recall == by_hand(images).eval["recall"][0, 0, 0, -1]


def test_matches_say_which_object_each_detection_found() -> None:
    objects = [([0, 0, 40, 40], 1, 1600.0, False), ([60, 60, 40, 40], 1, 1600.0, False)]
    found = [([60, 60, 40, 30], 1, 0.5), ([0, 0, 40, 40], 1, 0.75), ([0, 0, 40, 40], 1, 0.25)]
    matches = ours([(objects, found)]).compared["boxes"][0]
    assert matches.order.tolist() == [1, 0, 2]  # the likeliest first
    assert matches.truth[:, 0, 0].tolist() == [0, 1, -1]
    assert matches.truth[:, 0, -1].tolist() == [0, -1, -1]  # an IoU of 0.75 is not 0.95
    assert matches.rank.tolist() == [0, 1, 2]


@pytest.mark.parametrize("chunk", [1, 3])
def test_pairs_are_matched_alike_in_any_number(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)

    def some(count: int, last: int) -> list[Any]:
        places = random.integers(0, 60, (count, 2)).tolist()
        return [([x, y, 40, 40], int(random.integers(1, 3)), float(random.integers(1, last))) for x, y in places]

    images = [([(*entry, False) for entry in some(6, 9000)], some(9, 5)) for _ in range(5)]
    expected = ours(images).compared["boxes"][0]
    monkeypatch.setattr("kd_vision.detection.matching.CHUNK", chunk)
    assert np.array_equal(ours(images).compared["boxes"][0].truth, expected.truth)


def test_constants_are_pycocotools() -> None:
    rules = Rules.of("bbox")
    assert np.allclose(rules.thresholds, np.arange(0.5, 1, 0.05))
    assert (len(rules.recalls), rules.limits, len(rules.areas)) == (101, (1, 10, 100), 4)
    assert Rules.of("keypoints").limits == (20,)
    assert box_overlap(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 2, 2]]), np.array([False])) == pytest.approx(
        1 / 3
    )
    assert box_overlap(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 2, 2]]), np.array([True])) == pytest.approx(1 / 2)
