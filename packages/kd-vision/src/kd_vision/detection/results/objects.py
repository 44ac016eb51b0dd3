"""The objects of one image, as a model finds them or as its truth has them, and COCO's format of results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.errors import error_path
from kd_vision.detection.data.sources import Annotated
from kd_vision.detection.data.splits import drawn
from kd_vision.detection.metrics import check_detections

if TYPE_CHECKING:
    from PIL.Image import Image

MASK_THRESHOLD = 0.5
"""The probability from which on a pixel is in a predicted mask."""
VISIBLE = 2
"""COCO's visibility of a keypoint that is seen."""


@dataclass(frozen=True)
class Objects:
    """n objects of an image of (H, W) pixels; scores are those of detections, crowds those of annotations."""

    boxes: NDArray[np.float32]
    """(n, 4): x1, y1, x2, y2 in pixels."""
    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    masks: NDArray[np.bool_] | None = None
    """(n, H, W)."""
    keypoints: NDArray[np.float32] | None = None
    """(n, K, 3): x, y, visibility (0: none, 1: hidden, 2: seen)."""
    crowds: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, chosen: NDArray[Any] | Sequence[int]) -> Objects:
        """Those at some positions, or where a mask (n,) of booleans is true."""
        rows = np.asarray(chosen)
        rows = rows if rows.dtype == bool else rows.astype(np.int64)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen_values: dict[str, Any] = {name: None if value is None else value[rows] for name, value in values.items()}
        return Objects(**chosen_values)

    def at_least(self, threshold: float) -> Objects:
        """The detections whose score is that or more."""
        assert self.scores is not None
        return self.take(self.scores >= threshold)


def detections(output: Mapping[str, Tensor], num_classes: int | None, size: tuple[int, int], model: str) -> Objects:
    """What a model found in one image of ``size`` (height, width), the highest score first.

    KDError naming the ``model`` of a config where these are not detections of the data's classes.
    """
    kinds = [kind for kind in ("masks", "keypoints") if isinstance(output.get(kind), Tensor)]
    with error_path("models", model):
        check_detections(output, {**output, "size": torch.tensor(size)}, kinds, num_classes)
    scores, labels = output["scores"].float().cpu().numpy(), output["labels"].long().cpu().numpy()
    masks = (output["masks"] > MASK_THRESHOLD)[:, 0].cpu().numpy() if "masks" in kinds else None
    keypoints = output["keypoints"].float().cpu().numpy().copy() if "keypoints" in kinds else None
    if keypoints is not None:
        keypoints[..., 2] = VISIBLE
    found = Objects(output["boxes"].float().cpu().numpy(), labels, scores, masks, keypoints)
    return found.take(np.argsort(-scores, kind="stable"))


def coco_results(objects: Objects, image_id: int, file_name: str, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """The entries of an image in a file of results (https://cocodataset.org/#format-results), with its ``file_name``.

    ``bbox`` is x, y, width, height; ``segmentation`` the run lengths of the mask; ``keypoints`` x, y and a 1 for each.
    """
    assert objects.scores is not None
    boxes = objects.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    entries = []
    for number in range(len(objects)):
        entry = {
            "image_id": image_id,
            "file_name": file_name,
            "category_id": int(category_ids[objects.labels[number]]),
            "bbox": boxes[number].tolist(),
            "score": float(objects.scores[number]),
        }
        if objects.masks is not None:
            entry["segmentation"] = run_lengths(objects.masks[number])
        if objects.keypoints is not None:
            points = objects.keypoints[number]
            entry["keypoints"] = [round(float(value), 2) for x, y, _ in points for value in (x, y, 1)]
        entries.append(entry)
    return entries


def run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask (H, W) as COCO's compressed run lengths."""
    from pycocotools import mask as coco_masks

    encoded = coco_masks.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode("ascii")}


def decoded(lengths: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """(n, H, W) masks of compressed run lengths, n > 0."""
    from pycocotools import mask as coco_masks

    masks: NDArray[np.uint8] = coco_masks.decode(list(lengths))
    return masks.transpose(2, 0, 1).astype(bool)


def annotated_objects(annotated: Annotated, image: Image) -> Objects:
    """The truth of an image, with masks and keypoints where they were read."""
    return Objects(
        annotated.boxes,
        annotated.labels,
        None,
        None if annotated.shapes is None else drawn(image, annotated).astype(bool),
        annotated.keypoints,
        annotated.crowds,
    )
