"""Metrics of segmentation, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kd_core.class_figures import ClassFigures, share
from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_core.task import Metrics, Reducer

FIGURES = ("miou", "pixel_accuracy", "fwiou", "mean_accuracy")


class SegmentationMetrics(Metrics):
    """miou, pixel_accuracy, fwiou and mean_accuracy in percent, and ``iou/NAME`` for each of ``classes``.

    All pixels of a split are counted in one matrix, those of void (target below 0) left out; an image counts by its
    pixels. ``miou`` is the mean of the intersection over union of the classes that the truth or a prediction has;
    the others have the IoU NaN and are left out. torchvision's reference (``references/segmentation/utils.py``) and
    the VOC devkit (``VOCevalseg.m``) count and divide alike, but take the mean over all classes: with one that never
    occurs theirs is NaN, and otherwise equal to this one. A class that is predicted but never true has the IoU 0 with
    all three. ``fwiou`` weighs each class by its share of the true pixels; ``mean_accuracy`` is the mean share of a
    true class's pixels that are found.
    """

    reduces = True

    def __init__(self, num_classes: int | None = None, classes: Sequence[str] | None = None) -> None:
        self.num_classes = num_classes
        self.classes = tuple(classes) if classes is not None and num_classes in (None, len(classes)) else None
        self._matrix: Tensor | None = None

    @property
    def matrix(self) -> Tensor:
        """(C, C) int64: how many pixels of each true class (row) each class was predicted for (column)."""
        if self._matrix is None:
            some = self.num_classes or 0
            return torch.zeros(some, some, dtype=torch.int64)
        return self._matrix

    @torch.no_grad()
    def update(self, output: Any, batch: Batch) -> None:
        """Add logits (B, C, h, w), or a list of (C, h, w), with targets (B, H, W), or a list of (H, W).

        KDError where the output has another shape or other classes than the data.
        """
        for logits, target in pairs(output, batch.target, self.num_classes):
            counts = confusion(predicted(logits, target.shape[-2:]), target, logits.shape[1])
            self._matrix = counts if self._matrix is None else self._matrix.add_(counts)

    def reduce(self, processes: Reducer) -> None:
        """Make the counts those of all processes."""
        self._matrix = processes.sum(self.matrix)

    def compute(self) -> dict[str, float]:
        """The figures over everything seen so far; NaN where no pixel had a class."""
        matrix = self.matrix.cpu().numpy()
        named = zip(self.classes or (), (100 * iou_of(matrix)).tolist(), strict=False)
        return {**figures_of(matrix), **{f"iou/{name}": value for name, value in named}}

    def by_class(self) -> ClassFigures:
        """For each class its IoU, the share of its true pixels that are found, and its true and predicted pixels."""
        matrix = self.matrix.cpu().numpy()
        true, predicted_pixels = matrix.sum(1), matrix.sum(0)
        columns = {
            "iou": (100 * iou_of(matrix)).tolist(),
            "accuracy": (100 * share(matrix.diagonal(), true)).tolist(),
            "pixels": true.tolist(),
            "predicted": predicted_pixels.tolist(),
        }
        names = self.classes if self.classes is not None and len(self.classes) == len(matrix) else None
        return ClassFigures(names or tuple(map(str, range(len(matrix)))), columns, matrix, "pixels")


def confusion(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """(C, C) int64 counts for predicted and true classes of one shape: rows are the truth, void is left out."""
    width = num_classes
    kind = torch.int32 if width < 2**15 else torch.int64
    cell = target.to(kind).clamp_(min=-1).add_(1).mul_(width).add_(prediction)  # row 0 is void's
    counts = torch.bincount(cell.flatten(), minlength=width * (width + 1))
    if len(counts) > width * (width + 1):
        raise KDError(
            f"a mask has the class {int(target.max())}, and the model predicts the classes 0 .. {num_classes - 1}"
        )
    return counts[width:].view(width, width)


def predicted(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The likeliest class of each pixel: logits (B, C, h, w), scaled to ``size`` (H, W) where need be -> (B, H, W).

    uint8 or int64. Of equal logits the first class counts.
    """
    if tuple(logits.shape[-2:]) != tuple(size):
        logits = F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)
    if logits.device.type != "cpu":
        return logits.argmax(1)
    # On the CPU argmax takes up to twenty times as long as going through the maps of the classes one by one, and where
    # the classes of a pixel lie together up to three times as long as the maximum, which tells its place too.
    if logits.shape[1] > 256 or not logits.is_contiguous():
        return logits.max(1).indices
    best, classes = logits[:, 0].clone(), torch.zeros(logits[:, 0].shape, dtype=torch.uint8)
    better = torch.empty(best.shape, dtype=torch.bool)
    number = better.view(torch.uint8)
    for index in range(1, logits.shape[1]):
        torch.gt(logits[:, index], best, out=better)
        torch.maximum(classes, number.mul_(index), out=classes)
        torch.maximum(best, logits[:, index], out=best)
    return classes


def pairs(output: Any, target: Any, num_classes: int | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits (B, C, h, w) with their targets (B, H, W): all at once, or image by image where they are lists."""
    logits = output.get("out", output) if isinstance(output, Mapping) else output
    if isinstance(logits, Tensor) and isinstance(target, Tensor):
        batches, truths = [logits], [target]
    elif isinstance(logits, (list, tuple)) or isinstance(target, (list, tuple)):
        batches = [image[None] if isinstance(image, Tensor) else image for image in logits]
        truths = [image[None] for image in target]
    else:
        batches, truths = [logits], [target]
    expected = f"(B, {num_classes or 'classes'}, h, w)"
    if len(batches) != len(truths):
        raise KDError(
            f"segmentation is scored on logits {expected} of {len(truths)} images, the model returned {len(batches)}"
        )
    for image, truth in zip(batches, truths, strict=True):
        if not isinstance(image, Tensor):
            raise KDError(f"segmentation is scored on logits {expected}, the model returned {type(image).__name__}")
        if image.ndim != 4 or len(image) != len(truth) or num_classes not in (None, image.shape[1]):
            raise KDError(f"segmentation is scored on logits {expected}, the model returned {tuple(image.shape)}")
        yield image, truth


def iou_of(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) intersection over union of each class in [0, 1]; NaN for a class that is neither true nor predicted."""
    hits = matrix.diagonal()
    return share(hits, matrix.sum(0) + matrix.sum(1) - hits)


def mean(values: NDArray[np.float64]) -> float:
    """The mean of those that are not NaN; NaN where there are none."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if len(valid) else float("nan")


def figures_of(matrix: NDArray[np.int64]) -> dict[str, float]:
    """:data:`FIGURES` of a confusion matrix (C, C), in percent; NaN where no pixel has a class."""
    hits, true, iou = matrix.diagonal(), matrix.sum(1), iou_of(matrix)
    if not true.sum():
        return dict.fromkeys(FIGURES, float("nan"))
    seen = true > 0
    weighted = float((true[seen] * iou[seen]).sum() / true.sum())
    accuracy = float(hits.sum() / true.sum())
    values = (100 * mean(iou), 100 * accuracy, 100 * weighted, 100 * mean(share(hits, true)))
    return dict(zip(FIGURES, values, strict=True))
