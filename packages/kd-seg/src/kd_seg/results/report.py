"""A score in detail: the confusion matrix, the classes, and the worst images."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.data.batch import STUDENT, Batch, DatasetInfo, Splits
from kd_core.device.runtime import is_main
from kd_core.escapes import for_cell
from kd_core.evaluation import load_student
from kd_core.files import write_text
from kd_core.pictures import save, saved_by
from kd_core.train.run import Result
from kd_seg.data.sources import Pairs
from kd_seg.data.splits import SegSplit
from kd_seg.data.transforms import Mask
from kd_seg.metrics import SegmentationMetrics, confusion, figures_of, iou_of, pairs, predicted
from kd_seg.results.pictures import MADE_BY, confusion_picture, side_by_side
from kd_seg.results.predict import panels_of, seg_task
from kd_seg.task import SemanticSegmentation

WORST = 8
"""Images that are drawn unless a number is given."""


@dataclass(frozen=True)
class ImageScore:
    """One image: percent over its own pixels, NaN where its truth is void all over."""

    row: int
    miou: float
    pixel_accuracy: float


class ImageMetrics(SegmentationMetrics):
    """The metrics of a split, with a score of each image, and what was predicted for the ``worst``."""

    def __init__(self, num_classes: int | None, classes: Sequence[str] | None, worst: int) -> None:
        super().__init__(num_classes, classes)
        self.worst = worst
        self.images: list[ImageScore] = []
        self.worst_images: list[tuple[float, int, Mask]] = []
        """A heap of the worst images: negated mean IoU, negated row, classes (H, W)."""

    def update(self, output: Any, batch: Batch) -> None:
        """As :meth:`SegmentationMetrics.update`, image by image."""
        rows = iter(batch.index.tolist())
        for logits, target in pairs(output, batch.target, self.num_classes):
            for classes, truth in zip(predicted(logits, target.shape[-2:]), target, strict=True):
                counts = confusion(classes, truth, logits.shape[1])
                self._matrix = counts if self._matrix is None else self._matrix.add(counts)
                figures = figures_of(counts.cpu().numpy())
                score = ImageScore(next(rows), figures["miou"], figures["pixel_accuracy"])
                self.images.append(score)
                if score.miou == score.miou and self.worst:
                    entry = (-score.miou, -score.row, classes.cpu().numpy().astype(np.int16))
                    push = heapq.heappush if len(self.worst_images) < self.worst else heapq.heappushpop
                    push(self.worst_images, entry)


class RecordingTask(SemanticSegmentation):
    """The task, with the metrics of its last score and the data that were read for it kept."""

    def __init__(self, worst: int) -> None:
        self.worst = worst
        self.splits: Splits | None = None
        self.last_metrics: ImageMetrics | None = None

    def load(self, *args: Any, **kwargs: Any) -> Splits:
        """As the task does."""
        self.splits = super().load(*args, **kwargs)
        return self.splits

    def metrics(self, info: DatasetInfo) -> ImageMetrics:
        """Those of the task, with the images'."""
        self.last_metrics = ImageMetrics(info.model_parameters.get("num_classes"), info.classes, self.worst)
        return self.last_metrics


def report(target: str | Path | None, out: Path, *, worst: int = WORST, **options: Any) -> Result:
    """Score as :func:`kd_core.evaluation.evaluate` does, and write the details to the folder ``out``, in one pass.

    ``confusion.csv`` and ``confusion.png``; ``classes.tsv``; ``images.tsv``, the images with their scores, the lowest
    mean IoU first; and ``worst/NN_NAME.png`` for the first ``worst`` of them. ``options`` are those of
    :func:`kd_core.evaluation.load_student`.
    """
    with load_student(target, **options) as student:
        seg_task(student)
        out.mkdir(parents=True, exist_ok=True)
        task = RecordingTask(worst)
        result = replace(student, plan=replace(student.plan, task=task)).score()
        if is_main():
            write(task, out)
    return result


def write(task: RecordingTask, out: Path) -> None:
    """Write the files of a report on a task's last score."""
    metrics, splits = task.last_metrics, task.splits
    assert metrics is not None
    assert splits is not None
    assert splits.final is not None
    split = splits.final[1]
    assert isinstance(split, SegSplit)
    matrix = metrics.matrix.cpu().numpy()
    classes = splits.info.classes or tuple(map(str, range(len(matrix))))
    counts = [[name, *row] for name, row in zip(classes, matrix.tolist(), strict=True)]
    write_text(out / "confusion.csv", table(["truth", *classes], counts, ","))
    write_text(
        out / "classes.tsv", table(["class", "iou", "accuracy", "pixels", "predicted"], by_class(matrix, classes))
    )
    save(confusion_picture(matrix, classes), out / "confusion.png", MADE_BY)
    # NaN compares with nothing: images without a true pixel come last
    images = sorted(metrics.images, key=lambda score: (score.miou != score.miou, score.miou, score.row))
    rows = [[split.name(score.row), figure(score.miou), figure(score.pixel_accuracy)] for score in images]
    write_text(out / "images.tsv", table(["image", "miou", "pixel_accuracy"], rows))
    write_worst(metrics, split.part.pairs, classes, out / "worst")


def by_class(matrix: NDArray[np.int64], classes: Sequence[str]) -> list[list[Any]]:
    """For each class its IoU, the share of its true pixels that were found, and its true and predicted pixels."""
    true, predicted_pixels, hits = matrix.sum(1), matrix.sum(0), matrix.diagonal()
    accuracies = [100 * hit / pixels if pixels else float("nan") for hit, pixels in zip(hits, true, strict=True)]
    figures = zip(classes, 100 * iou_of(matrix), accuracies, true.tolist(), predicted_pixels.tolist(), strict=True)
    return [[name, figure(iou), figure(accuracy), *pixels] for name, iou, accuracy, *pixels in figures]


def write_worst(metrics: ImageMetrics, source: Pairs, classes: Sequence[str], folder: Path) -> None:
    """The panels of the images with the lowest mean IoU, in place of those of an earlier report."""
    for path in folder.glob("*.png"):
        if saved_by(path, MADE_BY):
            path.unlink()
    if metrics.worst_images:
        folder.mkdir(exist_ok=True)
    worst_first = sorted(metrics.worst_images, key=lambda entry: (-entry[0], -entry[1]))
    for number, (negated, row, mask) in enumerate(worst_first, 1):
        image, truth = source.read(-row)
        panels = panels_of(np.asarray(image), truth, {STUDENT: mask}, {STUDENT: -negated})
        name = source.name(-row).replace("/", "_")
        save(side_by_side(panels, classes), folder / f"{number:02}_{name}.png", MADE_BY)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]], delimiter: str = "\t") -> str:
    """Rows as lines, cells quoted where they hold the delimiter; none is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerow(map(for_cell, header))
    writer.writerows(map(for_cell, row) for row in rows)
    return text.getvalue()


def figure(value: float) -> str:
    """A number with as many digits as are written."""
    return f"{value:.6g}"
