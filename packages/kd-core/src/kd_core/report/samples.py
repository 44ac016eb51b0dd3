"""The samples that a student is worst at: found by one pass over the validation split, and shown."""

from __future__ import annotations

import heapq
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_core.data.batch import STUDENT, Batch, DatasetInfo, Split, Splits
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError, foreign_errors
from kd_core.evaluation import LoadedStudent, load_student
from kd_core.report.page import escape, image, jpeg, number
from kd_core.taps.nested import map_tensors

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

THUMBNAIL, WIDE = 320, 1280
"""Pixels of the longer side of a sample's picture, of a single image and of several side by side."""
SMALL = 64
"""Pixels up to which an image is enlarged with its pixels as squares."""


@dataclass(frozen=True)
class SampleView:
    """A sample as a report shows it: its name, what is told of it, and a picture or a text."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)
    text: str = ""
    picture: Image | None = None


class SampleViewer:
    """Tells how wrong a student is about each sample, and shows one. A task names its own in :attr:`Task.viewer`."""

    title = "The samples with the highest loss"
    wide = False
    """Whether pictures are several images side by side."""

    def losses(self, output: Any, batch: Batch, info: DatasetInfo) -> Tensor:
        """(B,) how wrong each output of a batch is, the higher the worse; NaN for a sample without a label."""
        raise NotImplementedError

    def view(self, split: Split, position: int, raw: Batch, output: Any, info: DatasetInfo) -> SampleView:
        """One sample of a split: ``raw`` is the batch of it alone, and ``output`` what the student gives for that."""
        raise NotImplementedError


@dataclass(frozen=True)
class WorstSamples:
    """The worst samples of a split, the worst first, each with its loss."""

    split: str
    samples: int
    viewer: SampleViewer
    views: Sequence[tuple[float, SampleView]]


def worst_samples(run: Path, count: int, trust: Sequence[str] = ()) -> WorstSamples:
    """The ``count`` samples of a run's validation split, or of the test split where there is none, with the most loss.

    KDError where the data cannot be read any more, or the task shows no samples.
    """
    with load_student(run, trust=trust) as student:
        name = student.plan.task.viewer
        if not name:
            raise KDError(f"the task {student.plan.task.name} shows no samples")
        module, _, attribute = name.partition(":")
        viewer: SampleViewer = vars(import_module(module))[attribute]()
        data, splits = student.read()
        chosen = ("val", splits.val) if splits.val is not None else splits.final
        if chosen is None:
            raise KDError("there is neither a validation nor a test split")
        with closing(chosen[1]):
            model, runtime = student.build(splits.info)
            runner = Runner(student, model, runtime, data, splits)
            worst = runner.worst(viewer, chosen[1], count)
            views = [(loss, runner.view(viewer, chosen[1], position)) for loss, position in worst]
        return WorstSamples(chosen[0], len(chosen[1]), viewer, views)


@dataclass(frozen=True)
class Runner:
    """A student with its data, to be run on batches."""

    student: LoadedStudent
    model: nn.Module
    runtime: Runtime
    data: Any
    splits: Splits

    def outputs(self, split: Split, order: Tensor, size: int) -> Iterator[tuple[Batch, Batch, Any]]:
        """Each batch of positions as the split gives it and as the student takes it, and the outputs."""
        plan, inputs = self.student.plan, {STUDENT: self.student.plan.inputs[STUDENT]}
        self.model.eval()
        with torch.no_grad(), self.runtime.autocast():
            for raw in split.batches(order.split(size), epoch=0, seed=0, augment=False):
                prepared = plan.task.prepare(raw.to(self.runtime.device), inputs, self.data, training=False)
                batch = self.runtime.format(prepared)
                with foreign_errors("the forward pass", "models", STUDENT):
                    yield raw, batch, plan.task.call(self.model, batch.for_model(STUDENT))

    def worst(self, viewer: SampleViewer, split: Split, count: int) -> list[tuple[float, int]]:
        """The highest losses with their positions, the highest first; of equal ones the first position."""
        size, heap = self.student.batch_size, list[tuple[float, int]]()
        order = split.arrange(torch.arange(len(split)), size)
        start = 0
        for _, batch, output in self.outputs(split, order, size):
            losses = viewer.losses(output, batch, self.splits.info).tolist()
            for position, loss in zip(order[start : start + len(losses)].tolist(), losses, strict=True):
                if not math.isnan(loss):
                    heapq.heappush(heap, (loss, -position))
                    if len(heap) > count:
                        heapq.heappop(heap)
            start += len(losses)
        return [(loss, -negated) for loss, negated in sorted(heap, reverse=True)]

    def view(self, viewer: SampleViewer, split: Split, position: int) -> SampleView:
        """One sample, run once more by itself."""
        raw, _, output = next(self.outputs(split, torch.tensor([position]), 1))
        return viewer.view(split, position, raw, map_tensors(on_cpu, output), self.splits.info)


def on_cpu(tensor: Tensor) -> Tensor:
    """A tensor on the CPU."""
    return tensor.cpu()


def sample_name(split: Split, position: int, raw: Batch) -> str:
    """The file of a sample, below the folder that it is in, or its row in the data."""
    files = split.files()
    if files is not None and position in set(files.positions):
        return "/".join(files.paths(position)[0].parts[-2:])
    return f"row {int(raw.index[0])}"


def class_name(info: DatasetInfo, number: int) -> str:
    """The name of a class, or its number where it has none."""
    return info.classes[number] if info.classes and number < len(info.classes) else str(number)


def probabilities(logits: Tensor, info: DatasetInfo, target: int) -> dict[str, str]:
    """Truth and prediction of one sample with logits (C,), each with its probability."""
    shares = logits.float().softmax(0)
    if not bool(shares.isfinite().all()):
        return {"true": class_name(info, target), "predicted": "nothing: its outputs are not finite"}
    best = int(shares.argmax())
    return {
        "true": f"{class_name(info, target)}, {100 * float(shares[target]):.3g} %",
        "predicted": f"{class_name(info, best)}, {100 * float(shares[best]):.3g} %",
    }


def samples_section(worst: WorstSamples) -> str:
    """The worst samples as cards."""
    cards = "".join(card(loss, view, worst.viewer) for loss, view in worst.views)
    texts = any(view.text for _, view in worst.views)
    return f'<div class="samples{" wide" if worst.viewer.wide else " texts" if texts else ""}">{cards}</div>'


def card(loss: float, view: SampleView, viewer: SampleViewer) -> str:
    """One sample as a card."""
    shown = ""
    if view.picture is not None:
        small = max(view.picture.size) <= SMALL
        longest = WIDE if viewer.wide else THUMBNAIL
        content, kind = (png(view.picture), "image/png") if small else (thumbnail(view.picture, longest), "image/jpeg")
        shown = image(content, kind, view.name, "small" if small else "")
    if view.text:
        shown += f"<blockquote>{escape(view.text)}</blockquote>"
    facts = {**view.facts, "loss": number(loss), "sample": view.name} if not viewer.wide else view.facts
    rows = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f'<div class="sample">{shown}<dl>{rows}</dl></div>'


def thumbnail(picture: Image, longest: int) -> bytes:
    """A picture as a JPEG file with a longer side of at most so many pixels."""
    smaller = picture.convert("RGB")
    smaller.thumbnail((longest, longest))
    return jpeg(smaller)


def png(picture: Image) -> bytes:
    """A picture as a PNG file."""
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
