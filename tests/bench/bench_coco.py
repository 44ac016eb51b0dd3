"""Processor time of COCO's metrics and of joint augmentation, beside pycocotools, faster-coco-eval and torchvision.

::

    python tests/bench/bench_coco.py [--images 5000]

All evaluators get the same made-up detections, 100 an image, and give the same figures to the last bit. Images of 640 x
480 pixels with ten boxes are decoded and augmented by the operations of torchvision's reference, on one thread.
"""

from __future__ import annotations

import argparse
import importlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from kd_core.data.batch import Batch
from kd_vision.detection.data.categories import COCO
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.sources import Annotated
from kd_vision.detection.data.splits import BoxReader
from kd_vision.detection.data.transforms import parse
from kd_vision.detection.metrics import DetectionMetrics, xywh

SIZE = (480, 640)
FILL = (123, 117, 104)
FLIP = v2.RandomHorizontalFlip(0.5)
JITTER = [v2.ScaleJitter((1024, 1024)), v2.RandomCrop((1024, 1024), pad_if_needed=True, fill=FILL)]
DISTORTED = [v2.RandomPhotometricDistort(), v2.RandomZoomOut(fill=FILL)]
THEIRS: dict[str, list[Any]] = {
    "none": [],
    "hflip": [FLIP],
    "ssdlite": [v2.RandomIoUCrop(), FLIP],
    "multiscale": [v2.RandomShortestSize(list(range(480, 801, 32)), 1333), FLIP],
    "lsj": [*JITTER, FLIP],
    "ssd": [*DISTORTED, v2.RandomIoUCrop(), FLIP],
}
"""torchvision's presets, by their names."""
EVALUATORS = {
    "faster-coco-eval": (("faster_coco_eval", "COCO"), ("faster_coco_eval", "COCOeval_faster")),
    "pycocotools": (("pycocotools.coco", "COCO"), ("pycocotools.cocoeval", "COCOeval")),
}
"""Where the index of annotations and the evaluator of each are."""


def seconds(call: Callable[[], Any]) -> float:
    """Processor time of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def boxes_of(random: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes of 8 to 300 pixels, cut at the border."""
    centre = random.uniform(0, 1, (count, 2)) * SIZE[::-1]
    half = np.exp(random.uniform(np.log(4), np.log(150), (count, 2)))
    low = (centre - half).clip(0, np.array(SIZE[::-1]) - 2)
    return np.concatenate([low, (centre + half).clip(low + 1, SIZE[::-1])], 1).astype(np.float32)


def images_of(count: int) -> Iterator[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]:
    """Target and detections of each image: about 7 objects, 60 detections near them, 40 anywhere."""
    random = np.random.default_rng(0)
    for _ in range(count):
        objects = 1 + random.poisson(6)
        truth, labels = boxes_of(random, objects), random.choice(COCO.labels, objects)
        near = random.integers(0, objects, 60)
        moved = truth[near] + random.normal(0, 6, (60, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        found = np.concatenate([moved, boxes_of(random, 40)]).astype(np.float32)
        others = random.choice(random.choice(COCO.labels, 8), 40)
        target = {"boxes": truth, "labels": labels, "area": (truth[:, 2:] - truth[:, :2]).prod(1) * 0.6}
        target |= {"iscrowd": (random.random(objects) < 0.01).astype(np.uint8), "size": np.array(SIZE)}
        detections = {"boxes": found, "labels": np.concatenate([labels[near], others])}
        detections["scores"] = random.random(100).astype(np.float32)
        yield ({key: torch.from_numpy(value) for key, value in part.items()} for part in (target, detections))  # type: ignore[misc]


def annotations_of(metrics: DetectionMetrics) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The truth and the detections as pycocotools takes them."""
    lists: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for row, image in metrics.images.items():
        for entries, objects in zip(lists, (image.truth, image.detections), strict=True):
            boxes = xywh(objects["boxes"])
            area = objects.get("area", boxes[:, 2:].prod(1)).tolist()
            crowd = objects.get("iscrowd", np.zeros(len(boxes))).astype(int).tolist()
            scores = objects.get("scores", area)
            for k, label in enumerate(objects["labels"].tolist()):
                entry = {"id": len(entries) + 1, "image_id": row, "category_id": label, "bbox": boxes[k].tolist()}
                entries.append({**entry, "area": area[k], "iscrowd": crowd[k], "score": float(scores[k])})
    return lists


def evaluate(index: Any, evaluation: Any, metrics: DetectionMetrics) -> list[float]:
    """The twelve figures of an evaluator with pycocotools' interface."""
    sides = []
    with redirect_stdout(io.StringIO()):
        for annotations in annotations_of(metrics):
            side = index()
            images = [{"id": row, "height": SIZE[0], "width": SIZE[1]} for row in metrics.images]
            categories = [{"id": label, "name": str(label)} for label in COCO.labels.tolist()]
            side.dataset = {"images": images, "categories": categories, "annotations": annotations}
            side.createIndex()
            sides.append(side)
        done = evaluation(*sides, "bbox")
        done.evaluate()
        done.accumulate()
        done.summarize()
    return [100 * float(value) for value in done.stats[:12]]


def scoring(count: int) -> None:
    """Print what each evaluator takes."""
    metrics = DetectionMetrics(DetectionInfo.of(COCO))
    images = [tuple(image) for image in images_of(count)]
    updates = [([found], Batch({}, [target], torch.tensor([row]))) for row, (target, found) in enumerate(images)]
    update = seconds(lambda: [metrics.update(*each) for each in updates])
    figures: dict[str, float] = {}
    print(f"ours: {update:.2f} s for taking them in, {seconds(lambda: figures.update(metrics.compute())):.2f} s")
    for name, (index, evaluator) in EVALUATORS.items():
        try:
            pair = [getattr(importlib.import_module(module), kind) for module, kind in (index, evaluator)]
        except ImportError:
            print(f"{name} is not installed")
            continue
        theirs: list[float] = []
        took = seconds(lambda: theirs.extend(evaluate(*pair, metrics)))  # noqa: B023
        away = max(abs(one - other) for one, other in zip(theirs, list(figures.values())[:12], strict=True))
        print(f"{name}: {took:.2f} s; largest difference of a figure {away:.1g}")


def augmenting(rounds: int = 5, count: int = 20) -> None:
    """Print the milliseconds of an image, decoding included, of each preset and of torchvision's."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 15, 20, 3)).astype(np.uint8)
    files = []
    for pixels in coarse:
        file = io.BytesIO()
        Image.fromarray(pixels).resize(SIZE[::-1]).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    boxes, ones = boxes_of(random, 10), np.ones(10)

    def decoded(row: int) -> Image.Image:
        return Image.open(io.BytesIO(files[row])).convert("RGB")

    def read(row: int) -> tuple[Image.Image, Annotated]:
        return decoded(row), Annotated("", boxes, ones.astype(int), ones, ones < 0, None, None, row, SIZE)

    part: Any = SimpleNamespace(read=read, rows=np.arange(count))
    print(f"decoding: {best(lambda: [decoded(row) for row in range(count)], rounds) / count:.2f} ms")
    for name, transforms in THEIRS.items():
        reader, reference = BoxReader(part, parse(name), True), v2.Compose([*transforms, v2.PILToTensor()])

        def ours(reader: BoxReader = reader) -> None:
            for row in range(count):
                reader.sample(row, seed=0, epoch=1, augment=True)

        def theirs(reference: v2.Compose = reference) -> None:
            torch.manual_seed(1)
            for row in range(count):
                target = {"boxes": tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=SIZE)}
                v2.SanitizeBoundingBoxes(labels_getter=None)(*reference(decoded(row), target))

        print(f"{name}: {best(ours, rounds) / count:.2f} ms, torchvision {best(theirs, rounds) / count:.2f} ms")


def best(call: Callable[[], Any], rounds: int) -> float:
    """Milliseconds of processor time of the fastest round."""
    return 1000 * min(seconds(call) for _ in range(rounds))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    torch.set_num_threads(1)
    augmenting()
    scoring(parser.parse_args().images)
