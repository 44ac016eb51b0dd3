"""COCO's metrics against pycocotools called by hand, as its own demonstration calls it."""

from __future__ import annotations

import math
import re
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as runs
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor

from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_vision.detection.data.categories import Categories
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.spec import DataSpec, info_of
from kd_vision.detection.data.splits import DetectionSplit
from kd_vision.detection.metrics import DetectionMetrics, run_lengths

CLASSES = ("background", "cat", "dog", "N/A", "bird")
INFO = DetectionInfo.of(Categories(CLASSES, (-1, 3, 5, 8, 9), frozenset({3})))
SIZE = (160, 200)
SIZES = ("small", "medium", "large")
FIGURES = (
    "ap",
    "ap50",
    "ap75",
    *(f"ap_{size}" for size in SIZES),
    "ar1",
    "ar10",
    "ar100",
    *(f"ar_{size}" for size in SIZES),
)
KEYPOINT_FIGURES = ("ap", "ap50", "ap75", "ap_medium", "ap_large", "ar", "ar50", "ar75", "ar_medium", "ar_large")
"""What pycocotools prints, in its order."""
Image = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Target and detections of an image."""


def boxes_of(random: np.random.Generator, count: int) -> Tensor:
    """(count, 4) boxes whose numbers float32 holds exactly."""
    corners = np.stack([random.integers(0, 4 * side, (count, 2)) for side in (SIZE[1], SIZE[0])], 1) / 4
    low, high = corners.min(2), corners.max(2) + 0.25
    return torch.tensor(np.concatenate([low, high], 1), dtype=torch.float32).view(-1, 4)


def masks_of(boxes: Tensor) -> Tensor:
    """(n, H, W) uint8, the boxes without a corner."""
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
        mask[y1 : (y1 + y2) // 2, x1 : (x1 + x2) // 2] = 0
    return masks


def points_of(random: np.random.Generator, boxes: Tensor, count: int) -> Tensor:
    """(n, count, 3) keypoints in their boxes, about a third of them not to be seen."""
    places = torch.from_numpy(random.integers(0, 5, (len(boxes), count, 2)) / 4).float()
    seen = torch.from_numpy(random.integers(0, 3, (len(boxes), count, 1))).float()
    return torch.cat([boxes[:, None, :2] + places * (boxes[:, None, 2:] - boxes[:, None, :2]), seen], 2)


def image_of(seed: int, *, objects: int = 6, detections: int = 12, points: int = 17) -> Image:
    """An image whose detections are those of moved objects and of none, with scores that are equal now and then."""
    random = np.random.default_rng(seed)
    boxes = boxes_of(random, objects)
    labels = torch.from_numpy(random.choice([1, 2, 4], objects))
    target = {
        "boxes": boxes,
        "labels": labels,
        "area": ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])) * 0.75,
        "iscrowd": torch.from_numpy(random.random(objects) < 0.2).to(torch.uint8),
        "masks": masks_of(boxes),
        "keypoints": points_of(random, boxes, points),
        "image_id": torch.tensor(seed),
        "size": torch.tensor(SIZE),
    }
    chosen = random.integers(0, max(objects, 1), detections if objects else 0)
    moved = boxes[chosen] + torch.from_numpy(random.integers(-4, 5, (len(chosen), 4)) / 4).float()
    moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 0.25)
    found = torch.cat([moved, boxes_of(random, detections // 3)])
    detected = {
        "boxes": found,
        "labels": torch.cat([labels[chosen], torch.from_numpy(random.choice([1, 2, 3, 4], detections // 3))]),
        "scores": torch.from_numpy(random.integers(0, 9, len(found)) / 8).float(),
        "masks": masks_of(found.clamp(min=0)).float()[:, None] * 0.75,
        "keypoints": points_of(random, found, points),
    }
    near = torch.from_numpy(random.integers(-8, 9, (len(chosen), points, 3)) / 4).float()
    detected["keypoints"][: len(chosen)] = target["keypoints"][chosen] + near
    return target, detected


def many(count: int = 5, **counts: int) -> list[Image]:
    """Images, among them one without objects and one without detections."""
    images = [image_of(seed, **counts) for seed in range(count)]
    return [*images, image_of(100, objects=0), image_of(101, detections=0)]


def without(images: list[Image], *keys: str) -> list[Image]:
    return [
        tuple({key: value for key, value in part.items() if key not in keys} for part in image)  # type: ignore[misc]
        for image in images
    ]


def seen(images: list[Image], rows: list[int], info: DetectionInfo = INFO) -> DetectionMetrics:
    """Metrics that were given some of the images, three at a time."""
    metrics = DetectionMetrics(info)
    for start in range(0, len(rows), 3):
        batch = rows[start : start + 3]
        target = [images[row][0] for row in batch]
        metrics.update([images[row][1] for row in batch], Batch({}, target, torch.tensor(batch)))
    return metrics


def score(images: list[Image], **options: Any) -> dict[str, float]:
    return seen(images, list(range(len(images))), **options).compute()


def xywh(box: Tensor) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [x1, y1, x2 - x1, y2 - y1]


def rle(mask: Tensor) -> dict[str, Any]:
    lengths = runs.encode(np.asfortranarray((mask > 0.5).to(torch.uint8).numpy()))
    return {"size": lengths["size"], "counts": lengths["counts"].decode()}


def by_hand(images: list[Image], kind: str) -> tuple[Any, list[float]]:
    """pycocotools on a file's content and on a list of results; the numbers that it printed."""
    truth, results = COCO(), []
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": [{"id": k} for k in (1, 2, 4)]}
    for number, (target, detected) in enumerate(images):
        content["images"].append({"id": 7 + 3 * number, "height": SIZE[0], "width": SIZE[1]})
        for k, box in enumerate(target["boxes"]):
            entry = {"id": len(content["annotations"]) + 1, "image_id": 7 + 3 * number, "bbox": xywh(box)}
            entry |= {"category_id": int(target["labels"][k]), "area": float(target["area"][k])}
            entry |= {"iscrowd": int(target["iscrowd"][k]), "segmentation": rle(target["masks"][k])}
            points = target["keypoints"][k]
            entry |= {"keypoints": points.flatten().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
            content["annotations"].append(entry)
        for k, box in enumerate(detected["boxes"]):
            entry = {"image_id": 7 + 3 * number, "category_id": int(detected["labels"][k])}
            entry |= {"score": float(detected["scores"][k])}
            parts = {
                "bbox": {"bbox": xywh(box)},
                "segm": {"segmentation": rle(detected["masks"][k, 0])},
                "keypoints": {"keypoints": detected["keypoints"][k].flatten().tolist()},
            }
            results.append(entry | parts[kind])
    printed = StringIO()
    with redirect_stdout(printed):
        truth.dataset = content
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation, [float(number) for number in re.findall(r"\] = (-?[\d.]+)", printed.getvalue())]


def named(figures: dict[str, float], names: tuple[str, ...], prefix: str) -> list[float]:
    """The figures as pycocotools has them."""
    values = [figures.get(prefix + name, math.nan) / 100 for name in names]
    return [-1 if math.isnan(value) else value for value in values]


@pytest.mark.parametrize(
    ("kind", "prefix", "names"),
    [("bbox", "", FIGURES), ("segm", "mask_", FIGURES), ("keypoints", "keypoint_", KEYPOINT_FIGURES)],
)
def test_figures_are_what_pycocotools_prints(kind: str, prefix: str, names: tuple[str, ...]) -> None:
    """With crowds, equal scores, an image without objects, one without detections, and a label that is no class."""
    images = many()
    evaluation, printed = by_hand(images, kind)
    figures = named(score(images), names, prefix)
    assert [round(value, 3) for value in figures] == printed
    assert figures == pytest.approx(evaluation.stats.tolist(), rel=1e-12)
    assert len({round(value, 6) for value in figures}) > 6  # they differ, so that no two can be confused


@pytest.mark.parametrize(("kind", "prefix"), [("bbox", ""), ("segm", "mask_"), ("keypoints", "keypoint_")])
def test_the_ap_of_a_class_is_that_of_pycocotools_for_it_alone(kind: str, prefix: str) -> None:
    images = many(4)
    evaluation, _ = by_hand(images, kind)
    for label in (1, 2, 4):
        evaluation.params.catIds = [label]
        with redirect_stdout(StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert score(images)[f"{prefix}ap/{CLASSES[label]}"] == pytest.approx(100 * evaluation.stats[0], rel=1e-12)


def test_only_what_the_targets_have_is_scored_and_classes_are_named() -> None:
    images = without(many(2), "masks", "keypoints")
    assert list(score(images)) == [*FIGURES, "ap/cat", "ap/dog", "ap/bird"]
    assert list(score(images, info=DetectionInfo())) == [*FIGURES, "ap/1", "ap/2", "ap/4"]
    images = without(many(2), "keypoints")
    assert [name for name in score(images) if name.startswith("mask_")][-4:] == [
        "mask_ar_large",
        "mask_ap/cat",
        "mask_ap/dog",
        "mask_ap/bird",
    ]


def test_a_class_without_truth_is_nan_and_counts_in_no_mean() -> None:
    images = without(many(4), "masks", "keypoints")
    for target, _ in images:
        target["labels"] = target["labels"].clamp(max=2)
        target["area"] = target["area"].clamp(max=9000)
    figures = score(images)
    assert math.isnan(figures["ap/bird"])
    assert figures["ap"] == pytest.approx((figures["ap/cat"] + figures["ap/dog"]) / 2)
    assert "ap_large" not in figures  # no object is


def test_nothing_detected_is_0_and_nothing_to_find_is_nan() -> None:
    images = without(many(3, detections=0)[:3], "masks", "keypoints")
    assert score(images)["ap"] == score(images)["ar100"] == score(images)["ap/cat"] == 0
    images = without([image_of(0, objects=0)], "masks", "keypoints")
    assert all(map(math.isnan, score(images).values()))
    assert all(map(math.isnan, score(images, info=DetectionInfo()).values()))


def test_what_is_found_exactly_is_100() -> None:
    target, _ = image_of(3)
    target["iscrowd"][:] = 0
    detected = {"scores": torch.ones(6), **{key: target[key] for key in ("boxes", "labels", "keypoints")}}
    detected["masks"] = target["masks"][:, None].float()
    figures = score([(target, detected)])
    assert figures["ap"] == figures["mask_ap"] == figures["ar100"] == pytest.approx(100)


@given(st.integers(1, 6), st.integers(1, 6), st.data())
@settings(deadline=None, max_examples=100)
def test_run_lengths_are_pycocotools(height: int, width: int, data: st.DataObject) -> None:
    pixels = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = torch.tensor(pixels).view(1, height, width)
    expected = [runs.encode(np.asfortranarray(mask[0].to(torch.uint8).numpy()))]
    assert run_lengths(mask.to(torch.uint8)) == run_lengths(mask[:, None] * 0.5 + 0.25) == expected


def test_there_may_be_many_masks() -> None:
    """pycocotools takes the areas of 255 at once."""
    (target, detected) = image_of(0, detections=300)
    assert 0 < score([(target, detected)])["mask_ar100"] <= 100


def test_no_masks_have_no_run_lengths() -> None:
    assert run_lengths(torch.zeros(0, 1, 4, 5)) == run_lengths(torch.zeros(0, 4, 5, dtype=torch.uint8)) == []


@dataclass
class Processes:
    """Others' values, as several processes exchange them."""

    others: list[Any] = field(default_factory=list)

    def sum(self, tensor: Tensor) -> Tensor:
        raise AssertionError("nothing is added up")

    def gather_objects(self, value: Any) -> list[Any]:
        return [*self.others, value]


def test_figures_do_not_depend_on_batches_and_processes() -> None:
    """Uneven parts, a process without images, rows in another order, images that came twice."""
    images = many(8)
    expected = score(images)
    parts = [[9, 3, 3, 1, 0], [], [2, 4, 5, 6, 7, 8, 9]]
    whole = seen(images, parts[0])
    whole.reduce(Processes([seen(images, part).images for part in parts[1:]]))
    assert repr(whole.compute()) == repr(expected)


def test_detections_of_half_precision() -> None:
    """As autocast gives them: numpy has no bfloat16."""
    target, detected = image_of(0)
    halves = {key: value.bfloat16() if value.is_floating_point() else value for key, value in detected.items()}
    rounded = {key: value.float() if value.is_floating_point() else value for key, value in halves.items()}
    assert repr(score([(target, halves)])) == repr(score([(target, rounded)]))


def test_what_was_seen_is_kept_though_the_model_writes_over_it() -> None:
    target, detected = image_of(0)
    metrics = DetectionMetrics(INFO)
    metrics.update([detected], Batch({}, [target], torch.tensor([0])))
    expected = repr(metrics.compute())
    for value in detected.values():
        value.zero_()
    assert repr(metrics.compute()) == expected


def test_what_pycocotools_says_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    score(many(1))
    assert capfd.readouterr() == ("", "")


def test_keypoints_of_other_things_than_persons() -> None:
    images = [image_of(seed, points=5) for seed in range(3)]
    figures = score(images)
    assert 0 < figures["keypoint_ap"] < 100


def wrong(changes: dict[str, Any] | None = None, output: Any = None) -> Any:
    target, detected = image_of(0)
    batch = Batch({}, [target], torch.tensor([0]))
    changed = {key: value for key, value in {**detected, **(changes or {})}.items() if value is not None}
    DetectionMetrics(INFO).update([changed] if output is None else output, batch)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"boxes": 1}, "a list of mappings .* the model returned a dict"),
        (torch.zeros(1), "a list of mappings .* the model returned a Tensor"),
        ([], "of 1 images the model returned 0"),
        ([torch.zeros(4)], "the model returned a list of Tensor"),
    ],
)
def test_an_output_that_is_no_list_of_detections_is_an_error(output: Any, message: str) -> None:
    with pytest.raises(KDError, match=message):
        wrong(output=output)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": None}, "have a tensor 'boxes'; the model returned none"),
        ({"scores": [0.5]}, "have a tensor 'scores'; the model returned a list"),
        ({"masks": None}, "have a tensor 'masks'; the model returned none"),
        ({"keypoints": None}, "have a tensor 'keypoints'; the model returned none"),
        ({"boxes": torch.zeros(16, 5)}, r"'boxes' .* is a tensor \(16, 4\), not \(16, 5\)"),
        ({"scores": torch.zeros(3)}, r"'scores' .* is a tensor \(16,\), not \(3,\)"),
        ({"masks": torch.zeros(16, 1, 28, 28)}, r"'masks' .* is a tensor \(16, 1, 160, 200\), not \(16, 1, 28, 28\)"),
        ({"keypoints": torch.zeros(16, 5, 3)}, r"'keypoints' .* is a tensor \(16, 17, 3\), not \(16, 5, 3\)"),
        ({"boxes": torch.full((16, 4), math.nan)}, "'boxes' .* has values that are not finite"),
        ({"boxes": torch.tensor([9.0, 9, 5, 12]).expand(16, 4)}, "'boxes' .* end before they begin"),
        ({"labels": torch.arange(16)}, r"the model detected the label 15; those of the data are 1 \.\. 4"),
        ({"labels": torch.zeros(16, dtype=torch.int64)}, r"the label 0; those of the data are 1 \.\. 4"),
    ],
)
def test_detections_of_another_form_are_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KDError, match=message):
        wrong(changes)


@pytest.mark.slow
@pytest.mark.realdata
def test_figures_of_coco_are_those_of_its_file(real_data: Path) -> None:
    """From the file of annotations on: polygons, run lengths, crowds, categories, areas."""
    root = real_data / "coco2017_subset"
    data = DataSpec(name="coco2017", root=str(root), masks=True, workers=0)
    split = DetectionSplit.of(data.read().val, data, info_of(data), training=False)
    metrics, results, random = DetectionMetrics(info_of(data)), [], np.random.default_rng(0)
    for batch in split.batches(torch.arange(len(split)).split(7), epoch=0, seed=0, augment=False):
        output = [detected(target, random) for target in batch.target]
        metrics.update(output, batch)
        for target, found in zip(batch.target, output, strict=True):
            common = [{"image_id": int(target["image_id"])} for _ in found["boxes"]]
            for entry, box, mask in zip(common, found["boxes"], found["masks"], strict=True):
                entry |= {"bbox": xywh(box), "segmentation": rle(mask[0])}
            for entry, label, number in zip(common, found["labels"].tolist(), found["scores"].tolist(), strict=True):
                entry |= {"category_id": label, "score": number}
            results += common
    figures = metrics.compute()
    with redirect_stdout(StringIO()):
        truth = COCO(str(root / "annotations" / "instances_val2017.json"))
    for kind, prefix, key in (("bbox", "", "bbox"), ("segm", "mask_", "segmentation")):
        kept = [{name: entry[name] for name in ("image_id", "category_id", "score", key)} for entry in results]
        with redirect_stdout(StringIO()):
            evaluation = COCOeval(truth, truth.loadRes(kept), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        assert named(figures, FIGURES, prefix) == pytest.approx(evaluation.stats.tolist(), rel=1e-9)
        assert 0.1 < evaluation.stats[0] < 0.9


def detected(target: dict[str, Tensor], random: np.random.Generator) -> dict[str, Tensor]:
    """Most objects of an image somewhat moved, some with another label."""
    count = len(target["boxes"])
    shift = torch.from_numpy(random.normal(0, 4, (count, 1))).float()
    boxes = target["boxes"] + shift
    labels = torch.where(torch.from_numpy(random.random(count)) < 0.8, target["labels"], 1)
    masks = torch.stack([mask.roll(int(by), -1) for mask, by in zip(target["masks"], shift, strict=True)]).float()
    return {
        "boxes": boxes,
        "labels": labels,
        "scores": torch.from_numpy(random.random(count)).float(),
        "masks": masks[:, None],
    }


def test_classes_have_figures_of_their_own() -> None:
    metrics = seen(many(4), list(range(6)))
    figures = metrics.compute()
    classes = metrics.by_class()
    assert classes.classes == ("cat", "dog", "bird")
    assert list(classes.columns)[:3] == ["ap", "ap50", "ar"]
    assert classes.columns["ap"] == [figures[f"ap/{name}"] for name in classes.classes]
    assert classes.columns["mask_ap"] == [figures[f"mask_ap/{name}"] for name in classes.classes]
    assert np.nanmean(classes.columns["ap50"]) == pytest.approx(figures["ap50"])
    assert np.nanmean(classes.columns["ar"]) == pytest.approx(figures["ar100"])
    kept = [target["labels"][target["iscrowd"] == 0].tolist() for target, _ in many(4)]
    assert classes.columns["objects"] == [sum(labels.count(label) for labels in kept) for label in (1, 2, 4)]
