"""COCO's metrics of detections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.class_figures import ClassFigures
from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_core.task import Metrics, Reducer
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.matching import (
    Curves,
    Detections,
    Floats,
    Matches,
    Rules,
    Truth,
    Whole,
    box_overlap,
    curves,
    match,
    object_keypoint_similarity,
)

KINDS = {"boxes": ("bbox", ""), "masks": ("segm", "mask_"), "keypoints": ("keypoints", "keypoint_")}
"""What is compared -> pycocotools' word for it, and what its figures' names begin with."""
AT_ONCE = 255
"""Run lengths that pycocotools 2.0.11 takes the areas of at once, with numpy 2."""
SIZES = ("_small", "_medium", "_large")
"""What the figures of objects of a size end in."""
Objects = dict[str, Any]
"""The objects of an image: arrays, and under ``masks`` run lengths."""


@dataclass(frozen=True)
class Scored:
    """An image's truth and detections: boxes (n, 4) x1, y1, x2, y2, labels (n,), and what else is compared."""

    truth: Objects
    detections: Objects


class DetectionMetrics(Metrics):
    """COCO's twelve figures in percent, for boxes and, where the targets have them, masks and keypoints.

    They are what pycocotools prints. ``ap`` and its kin are means over the classes that the truth has, ``ap/NAME`` is
    that of one class; NaN where there is nothing to find. Figures of a size that no object has are left out. Where
    ``info`` has no classes, those of the truth count. Whatever the batches and processes were, images count once each
    and in the order of their rows, which decides between equal scores.

    Source: https://cocodataset.org/#detection-eval.
    """

    reduces = True

    def __init__(self, info: DetectionInfo) -> None:
        self.info = info
        self.images: dict[int, Scored] = {}
        """What was seen, by row."""
        self.compared: dict[str, tuple[Matches, Curves]] = {}
        """After :meth:`compute`, what each kind in :data:`KINDS` was computed from; images are in the order of rows."""

    @torch.no_grad()
    def update(self, output: Any, batch: Batch) -> None:
        """Add detections, a list of mappings ``boxes`` (n, 4), ``scores`` (n,), ``labels`` (n,), one an image.

        Where the targets have masks or keypoints: ``masks`` (n, 1, H, W) in [0, 1] and ``keypoints`` (n, K, 3), too.
        KDError where the output is not that, or has labels that the data do not.
        """
        check_list(output, len(batch.target))
        for row, detections, target in zip(batch.index.tolist(), output, batch.target, strict=True):
            if row not in self.images:
                kinds = [kind for kind in KINDS if kind in target]
                check_detections(detections, target, kinds, self.info.num_classes)
                truth = on_cpu(target, [*kinds, "labels", "area", "iscrowd"])
                self.images[row] = Scored(truth, on_cpu(detections, [*kinds, "labels", "scores"]))

    def reduce(self, processes: Reducer) -> None:
        """Make the images those of all processes."""
        merged = {row: image for images in processes.gather_objects(self.images) for row, image in images.items()}
        self.images = merged

    def compute(self) -> dict[str, float]:
        """The figures over everything seen so far."""
        images = [self.images[row] for row in sorted(self.images)]
        kinds = [kind for kind in KINDS if kind == "boxes" or any(kind in image.truth for image in images)]
        labels = self._labels(images)
        figures: dict[str, float] = {}
        single: dict[str, float] = {}
        for kind in kinds:
            self.compared[kind] = compared(images, labels, kind)
            curve = self.compared[kind][1]
            figures |= {
                name: value
                for name, value in figures_of(curve, kind).items()
                if value == value or not name.endswith(SIZES)  # which of the sizes there are objects of
            }
            for k, label in enumerate(labels):
                name = str(label) if self.info.classes is None else self.info.classes[label]
                single[f"{KINDS[kind][1]}ap/{name}"] = percent(curve.precision[:, :, k, 0])
        return figures | single

    def by_class(self) -> ClassFigures:
        """AP, AP at an overlap of 0.5 and AR in percent of each class, and its objects, crowds left out."""
        images = [self.images[row] for row in sorted(self.images)]
        labels = self._labels(images)
        columns: dict[str, list[float | None]] = {}
        for kind, (_, curve) in self.compared.items():
            values = {"ap": curve.precision[..., 0], "ap50": curve.precision[:1, ..., 0]}
            columns |= {
                KINDS[kind][1] + name: [percent(figures[:, :, number]) for number in range(len(labels))]
                for name, figures in values.items()
            }
            recalls = curve.recall[:, :, 0, -1]
            columns[f"{KINDS[kind][1]}ar"] = [percent(recalls[:, number]) for number in range(len(labels))]
        counts = Counter(
            label
            for image in images
            for label, crowd in zip(image.truth["labels"].tolist(), image.truth["iscrowd"].tolist(), strict=True)
            if not crowd
        )
        columns["objects"] = [counts[label] for label in labels]
        names = self.info.classes
        return ClassFigures(tuple(str(label) if names is None else names[label] for label in labels), columns)

    def _labels(self, images: Sequence[Scored]) -> list[int]:
        """The labels that count."""
        if self.info.classes is not None:
            return [label for label in range(1, len(self.info.classes)) if label not in self.info.ignored]
        return sorted({label for image in images for label in image.truth["labels"].tolist()})


def check_list(output: Any, count: int) -> None:
    """KDError where an output is not a list of ``count`` mappings."""
    wanted = "detection is scored on a list of mappings 'boxes', 'scores', 'labels', one for each image"
    if isinstance(output, Mapping) or not isinstance(output, Sequence):
        raise KDError(f"{wanted}; the model returned a {type(output).__name__}")
    if len(output) != count:
        raise KDError(f"{wanted}; of {count} images the model returned {len(output)}")
    for detections in output:
        if not isinstance(detections, Mapping):
            raise KDError(f"{wanted}; the model returned a list of {type(detections).__name__}")


def check_detections(
    detections: Mapping[str, Any], target: Mapping[str, Tensor], kinds: Sequence[str], num_classes: int | None
) -> None:
    """KDError where the detections of an image are not what the ``kinds`` of figures need."""
    for key in check_shapes(detections, target, kinds):
        if key != "masks" and not detections[key].isfinite().all():  # pycocotools takes NaN for a perfect match
            raise KDError(f"{key!r} of an image's detections has values that are not finite")
    boxes, labels = detections["boxes"], detections["labels"]
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise KDError("'boxes' of an image's detections has some that end before they begin: they are x1, y1, x2, y2")
    if num_classes and len(boxes) and not 1 <= int(labels.min()) <= int(labels.max()) < num_classes:
        wrong = int(labels.max() if labels.max() >= num_classes else labels.min())
        raise KDError(f"the model detected the label {wrong}; those of the data are 1 .. {num_classes - 1}")


def check_shapes(
    detections: Mapping[str, Any], target: Mapping[str, Tensor], kinds: Sequence[str]
) -> Mapping[str, tuple[int, ...]]:
    """The shapes of what the ``kinds`` of figures need of an image's detections; KDError where they have others."""
    height, width = map(int, target["size"])
    count = len(detections["boxes"]) if isinstance(detections.get("boxes"), Tensor) else 0
    shapes: dict[str, tuple[int, ...]] = {"boxes": (count, 4), "scores": (count,), "labels": (count,)}
    if "masks" in kinds:
        shapes["masks"] = (count, 1, height, width)
    if "keypoints" in kinds:
        shapes["keypoints"] = (count, *target["keypoints"].shape[1:])
    for key, shape in shapes.items():
        value = detections.get(key)
        if not isinstance(value, Tensor):
            has = f"a {type(value).__name__}" if key in detections else "none"
            hint = f"leave `{key}` out of `data`" if key in ("masks", "keypoints") else None
            raise KDError(f"detections have a tensor {key!r}; the model returned {has}", hint=hint)
        if tuple(value.shape) != shape:
            raise KDError(f"{key!r} of an image's detections is a tensor {shape}, not {tuple(value.shape)}")
    return shapes


def on_cpu(objects: Mapping[str, Tensor], keys: Sequence[str]) -> Objects:
    """Some tensors of an image's objects as arrays, masks as run lengths."""
    return {key: run_lengths(objects[key]) if key == "masks" else array(objects[key]) for key in keys}


def array(tensor: Tensor) -> NDArray[Any]:
    """A copy of a tensor's values, those of floats as float32: numpy has no bf16."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy().copy()


def run_lengths(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (n, H, W), or (n, 1, H, W) in [0, 1] of which more than a half is inside, in COCO's run lengths."""
    masks = masks.detach().flatten(0, -3)
    if masks.device.type != "cpu" or masks.dtype == torch.bfloat16:
        masks = masks > 0.5  # a quarter of what is to be copied, and numpy has no bfloat16
    inside = np.empty(masks.shape[1:], bool)
    return [run_length(np.greater(mask, 0.5, out=inside)) for mask in masks.cpu().numpy()]


def run_length(inside: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) in COCO's run lengths, down one column after the other.

    Only the columns from the first to the last pixel inside are looked at, which takes half the time of pycocotools'
    ``encode``.
    """
    from pycocotools import mask as runs

    height, width = inside.shape
    columns = np.flatnonzero(inside.any(0))
    first, last = (columns[0], columns[-1]) if len(columns) else (0, -1)
    pixels = inside[:, first : last + 1].T.ravel()
    ends = np.flatnonzero(np.diff(pixels, prepend=False)) + first * height
    if len(ends) % 2:  # the last column ends inside
        ends = np.append(ends, (last + 1) * height)
    total = height * width
    counts = np.diff(ends, prepend=0, append=total) if not len(ends) or ends[-1] < total else np.diff(ends, prepend=0)
    lengths: dict[str, Any] = runs.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
    return lengths


def xywh(boxes: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Boxes (n, 4) x1, y1, x2, y2 as COCO writes them: x, y, width, height."""
    corners = boxes.astype(np.float64).reshape(-1, 4)
    corners[:, 2:] -= corners[:, :2]
    return corners


def compared(images: Sequence[Scored], labels: Sequence[int], kind: str) -> tuple[Matches, Curves]:
    """The matches of some images, numbered in their order, and the curves of ``labels``; kinds are :data:`KINDS`."""
    rules = Rules.of(KINDS[kind][0])
    truth, objects = truth_of(images, kind)
    found, shapes = detections_of(images, kind)
    if kind == "keypoints":
        boxes, sigmas = _joined([xywh(image.truth["boxes"]) for image in images], 4), sigmas_of(images)

        def overlap(rows: Whole, places: Whole) -> Floats:
            return object_keypoint_similarity(shapes[rows], objects[places], boxes[places], truth.area[places], sigmas)
    else:

        def overlap(rows: Whole, places: Whole) -> Floats:
            return box_overlap(_chosen(shapes, rows), _chosen(objects, places), truth.crowd[places])

    matches = match(found, truth, overlap, rules)
    return matches, curves(matches, truth, labels, rules)


def truth_of(images: Sequence[Scored], kind: str) -> tuple[Truth, Any]:
    """The objects of all images, and their boxes, run lengths or keypoints, as ``kind`` says."""
    parts = [image.truth for image in images]
    crowd = _joined([part["iscrowd"] != 0 for part in parts]).astype(bool)
    shapes, ignore = _shapes(parts, kind), crowd
    if kind == "keypoints":
        ignore = crowd | ~(shapes[..., 2] > 0).any(1)
    area = _joined([part["area"] for part in parts])
    return Truth(
        _numbers(parts), _joined([part["labels"] for part in parts]).astype(np.int64), area, ignore, crowd
    ), shapes


def detections_of(images: Sequence[Scored], kind: str) -> tuple[Detections, Any]:
    """The detections of all images, and their boxes, run lengths or keypoints; the area is that of what is compared."""
    from pycocotools import mask as runs

    parts = [image.detections for image in images]
    shapes = _shapes(parts, kind)
    if kind == "masks":
        parts_of = (shapes[start : start + AT_ONCE] for start in range(0, len(shapes), AT_ONCE))
        area = _joined([runs.area(part) for part in parts_of])
    elif kind == "keypoints":
        area = np.ptp(shapes[..., :2], axis=1).prod(1) if len(shapes) else np.zeros(0)
    else:
        area = shapes[:, 2] * shapes[:, 3]
    labels, scores = (_joined([part[key] for part in parts]) for key in ("labels", "scores"))
    return Detections(_numbers(parts), labels.astype(np.int64), scores, area), shapes


def _shapes(parts: Sequence[Objects], kind: str) -> Any:
    """Boxes (n, 4) x, y, width, height, a list of n run lengths, or keypoints (n, K, 3) of all images."""
    if kind == "masks":
        return [lengths for part in parts for lengths in part["masks"]]
    if kind == "boxes":
        return _joined([xywh(part["boxes"]) for part in parts], 4)
    return _joined([part["keypoints"] for part in parts], max(part["keypoints"].shape[1] for part in parts), 3)


def _joined(arrays: Sequence[NDArray[Any]], *shape: int) -> Floats:
    """Arrays (n, *shape) as one, in double precision."""
    return np.concatenate([np.zeros((0, *shape)), *(array.reshape(-1, *shape) for array in arrays)])


def _numbers(parts: Sequence[Objects]) -> Whole:
    """The number of the image of each object."""
    return np.repeat(np.arange(len(parts)), [len(part["labels"]) for part in parts])


def _chosen(shapes: Any, rows: Whole) -> Any:
    return [shapes[row] for row in rows] if isinstance(shapes, list) else shapes[rows]


def sigmas_of(images: Sequence[Scored]) -> Floats:
    """How exact each keypoint is (K,): COCO's constants for 17 of them, their mean for any other number."""
    from pycocotools.cocoeval import Params

    sigmas: Floats = Params("keypoints").kpt_oks_sigmas
    points = max(image.truth["keypoints"].shape[1] for image in images)
    return sigmas if points == len(sigmas) else np.full(points, sigmas.mean())


def figures_of(curve: Curves, kind: str) -> dict[str, float]:
    """What pycocotools prints, in percent; NaN for its -1, where there is nothing to find."""
    prefix, areas = KINDS[kind][1], ("medium", "large") if kind == "keypoints" else ("small", "medium", "large")
    precision, recall = curve.precision, curve.recall
    figures = {"ap": precision[..., 0], "ap50": precision[0, ..., 0], "ap75": precision[5, ..., 0]}
    figures |= {f"ap_{area}": precision[..., number] for number, area in enumerate(areas, 1)}
    if kind == "keypoints":
        figures |= {"ar": recall[:, :, 0, -1], "ar50": recall[0, :, 0, -1], "ar75": recall[5, :, 0, -1]}
    else:
        figures |= {f"ar{limit}": recall[:, :, 0, number] for number, limit in enumerate((1, 10, 100))}
    figures |= {f"ar_{area}": recall[:, :, number, -1] for number, area in enumerate(areas, 1)}
    return {f"{prefix}{name}": percent(values) for name, values in figures.items()}


def percent(values: Floats) -> float:
    """The mean in percent of those that are not -1, NaN where there are none."""
    there = values[values > -1]
    return 100 * float(there.mean()) if len(there) else float("nan")
