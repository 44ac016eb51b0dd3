"""A score in detail, as one HTML file: curves, classes, kinds of errors, and the images with most of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.data.batch import DatasetInfo, Splits
from kd_core.device.runtime import is_main
from kd_core.evaluation import load_student
from kd_core.files import write_text
from kd_core.pictures import LARGEST, Colour
from kd_core.report.page import escape, jpeg, mark, page, picture, table
from kd_core.train.run import Result
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.splits import DetectionSplit
from kd_vision.detection.metrics import KINDS as FIGURE_KINDS
from kd_vision.detection.metrics import DetectionMetrics, Scored, percent
from kd_vision.detection.results.curves import precision_recall, svg
from kd_vision.detection.results.errors import (
    BADLY_PLACED,
    BOTH,
    DUPLICATE,
    FALSE,
    KINDS,
    MISSED,
    WRONG_CLASS,
    ImageErrors,
    errors_of,
)
from kd_vision.detection.results.objects import Objects, decoded
from kd_vision.detection.results.pictures import Panel, caption, side_by_side
from kd_vision.detection.results.predict import detection_task, title
from kd_vision.detection.task import ObjectDetection

WORST = 8
"""Images that are drawn unless a number is given."""
REPORT = "report.html"
THRESHOLD = 0.5
"""The score from which on a detection counts as an error, or covers one."""
RIGHT: Colour = (27, 158, 60)
COLOURS: Mapping[str, Colour] = {
    MISSED: (214, 39, 40),
    FALSE: (227, 119, 194),
    WRONG_CLASS: (255, 127, 14),
    BADLY_PLACED: (31, 119, 220),
    BOTH: (148, 103, 189),
    DUPLICATE: (120, 120, 120),
}


class RecordingTask(ObjectDetection):
    """The task, with the metrics of its last score and the data that were read for it kept."""

    def __init__(self) -> None:
        self.splits: Splits | None = None
        self.last_metrics: DetectionMetrics | None = None

    def load(self, *args: Any, **kwargs: Any) -> Splits:
        """As the task does."""
        self.splits = super().load(*args, **kwargs)
        return self.splits

    def metrics(self, info: DatasetInfo) -> DetectionMetrics:
        """Those of the task."""
        self.last_metrics = super().metrics(info)
        return self.last_metrics


@dataclass(frozen=True)
class JudgedImage:
    """An image with its detections of at least the threshold, its truth, and what is wrong."""

    row: int
    detections: Objects
    truth: Objects
    errors: ImageErrors

    @classmethod
    def of(cls, row: int, image: Scored, *, masks: bool = False) -> JudgedImage:
        """What is wrong in an image that the metrics keep; ``masks``: with those that there are, to draw them."""
        found, truth = (objects_of(kept, masks=masks) for kept in (image.detections, image.truth))
        found = found.take(np.argsort(-image.detections["scores"], kind="stable")).at_least(THRESHOLD)
        return cls(row, found, truth, errors_of(found, truth))


def report(target: str | Path | None, out: Path, *, worst: int = WORST, **options: Any) -> Result:
    """Score as :func:`kd_core.evaluation.evaluate` does, and write report.html to the folder ``out``, in one pass.

    The file is whole in itself and runs no script: figures, curves of precision over recall, AP, AR and kinds of errors
    by class, and the ``worst`` images, those with most errors, drawn. ``options`` are those of
    :func:`kd_core.evaluation.load_student`. KDError where the task is another one.
    """
    with load_student(target, **options) as student:
        detection_task(student, "eval --report")
        out.mkdir(parents=True, exist_ok=True)
        task = RecordingTask()
        result = replace(student, plan=replace(student.plan, task=task)).score()
        if is_main():
            name = str(target or (options.get("model") or {}).get("zoo", "a published model"))
            write_text(out / REPORT, page(f"Detections of {name}", sections(task, result, worst)))
    return result


def sections(task: RecordingTask, result: Result, worst: int) -> Iterator[str]:
    """The parts of the page on a task's last score."""
    metrics, splits = task.last_metrics, task.splits
    assert metrics is not None
    assert splits is not None
    assert splits.final is not None
    split, info = splits.final[1], splits.info
    assert isinstance(split, DetectionSplit)
    assert isinstance(info, DetectionInfo)
    judged = [JudgedImage.of(row, image) for row, image in sorted(metrics.images.items())]
    yield f"<p>{result.samples:,} images of the split {escape(result.split)}.</p>"
    yield "<h2>Figures</h2>"
    rows = [[name, figure(value)] for name, value in result.metrics.items() if "/" not in name]
    yield table(["metric", "percent"], rows)
    yield from curve_sections(metrics)
    yield from error_sections(judged)
    yield from class_sections(metrics, info, judged)
    order = sorted(
        (image for image in judged if image.errors.total), key=lambda image: (-image.errors.total, image.row)
    )
    drawn = (JudgedImage.of(image.row, metrics.images[image.row], masks=True) for image in order[:worst])
    yield from worst_sections(drawn, split, info)


def objects_of(kept: Mapping[str, Any], *, masks: bool) -> Objects:
    """The objects of an image as the metrics keep them, with keypoints and, if asked for, ``masks``."""
    crowds = kept.get("iscrowd")
    return Objects(
        kept["boxes"],
        kept["labels"],
        kept.get("scores"),
        decoded(kept["masks"]) if masks and kept.get("masks") else None,
        kept.get("keypoints"),
        None if crowds is None else crowds > 0,
    )


def curve_sections(metrics: DetectionMetrics) -> Iterator[str]:
    """Curves of precision over recall, of boxes, masks and keypoints."""
    yield "<h2>Precision and recall</h2>"
    yield "<p>The mean over the classes that have any truth, by the overlap (IoU) from which on a detection has found "
    yield "an object; of keypoints by the OKS. In brackets: the mean precision, which is the AP.</p>"
    for kind in FIGURE_KINDS:
        curves = precision_recall(metrics.compared[kind][1]) if kind in metrics.compared else {}
        if curves:
            yield f"<h3>{escape(kind.capitalize())}</h3>{svg(curves, f'Precision over recall of {kind}')}"


def error_sections(judged: Sequence[JudgedImage]) -> Iterator[str]:
    """How many errors of each kind there are."""
    totals = sum((image.errors.counts() for image in judged), Counter[str]())
    yield f"<h2>Errors</h2><p>Of boxes with a score of {THRESHOLD:g} or more.</p>"
    rows = [[kind, meaning, totals[kind]] for kind, meaning in KINDS.items()]
    yield table(["kind", "what it is", "errors"], rows, texts=2)


def class_sections(metrics: DetectionMetrics, info: DetectionInfo, judged: Sequence[JudgedImage]) -> Iterator[str]:
    """AP, AR and counts of each class."""
    curves = metrics.compared["boxes"][1]
    halves, aps = curves.precision[:1, :, :, 0], curves.precision[..., 0]  # thresholds, recalls, labels
    recalls = curves.recall[:, :, 0, -1]  # thresholds, labels
    truths, found = Counter[int](), Counter[int]()
    errors: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    for image in judged:
        crowds = image.truth.crowds
        truths.update(image.truth.labels[slice(None) if crowds is None else ~crowds].tolist())
        found.update(image.detections.labels.tolist())
        for kind, label in zip(image.errors.objects, image.truth.labels.tolist(), strict=True):
            errors[MISSED][label] += kind == MISSED
        for kind, label in zip(image.errors.detections, image.detections.labels.tolist(), strict=True):
            if kind is not None:
                errors[kind][label] += 1
    yield "<h2>Classes</h2><p>AP and AR (of 100 detections an image) in percent, over IoU 0.5 to 0.95; objects without "
    yield f"crowds; boxes with a score of {THRESHOLD:g} or more, and their errors.</p>"
    rows = [
        [
            info.classes[label] if info.classes else label,
            *(truths[label], found[label]),
            *(figure(percent(values[..., number])) for values in (aps, halves, recalls)),
            *(errors[kind][label] for kind in KINDS),
        ]
        for number, label in enumerate(curves.labels)
    ]
    yield table(["class", "objects", "boxes", "AP", "AP at 0.5", "AR", *KINDS], rows)


def worst_sections(worst: Iterable[JudgedImage], split: DetectionSplit, info: DetectionInfo) -> Iterator[str]:
    """Images, drawn, with what is wrong in them."""
    yield "<h2>The images with most errors</h2>"
    yield "".join(mark(colour, name) for name, colour in {"right": RIGHT, **COLOURS}.items())
    for image in worst:
        pixels, name = np.asarray(split.part.boxes.image(image.row)), split.name(image.row)
        drawn = side_by_side(panels(pixels, image, info.classes or ()), largest=LARGEST, skeleton=info.skeleton)
        counts = ", ".join(f"{count} {kind}" for kind, count in image.errors.counts().most_common())
        yield picture(jpeg(drawn), "image/jpeg", name, f"{name}: {counts}")


def panels(pixels: NDArray[np.uint8], image: JudgedImage, classes: Sequence[str]) -> list[Panel]:
    """The truth, of which what is missed is marked, and the detections with what is wrong about each."""
    sides = (("truth", image.truth, image.errors.objects), ("student", image.detections, image.errors.detections))
    drawn = []
    for who, objects, kinds in sides:
        words = [f": {kind}" if kind else "" for kind in kinds]
        captions = [caption(objects, number, classes) + word for number, word in enumerate(words)]
        colours = [RIGHT if kind is None else COLOURS[kind] for kind in kinds]
        drawn.append(Panel(title(who, objects), pixels, objects, captions, colours))
    return drawn


def figure(value: float) -> str:
    """A percentage with two decimals; a dash for NaN, where there is nothing to find."""
    return "-" if value != value else f"{value:.2f}"
