"""The classes that a trained student sees in image files, as a table and on a sheet of small pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kd_core.data.images import read_image
from kd_core.errors import KDError
from kd_core.escapes import for_cell
from kd_core.files import json_text, write_text
from kd_core.pictures import GAP, MARGIN, TEXT, WHITE, line_of, save, write
from kd_core.prediction import FailedImage, named_images
from kd_core.runs.progress import Reporter
from kd_core.student import Student, load
from kd_core.task import logits_of

if TYPE_CHECKING:
    from PIL.Image import Image

TABLE, ROWS, SHEET = "predictions.csv", "predictions.jsonl", "sheet.png"
MADE_BY = "kd-vision predict"
CHUNK = 64
"""Images that are run at once."""
SHOWN, ACROSS, SIDE = 100, 10, 112
"""Images of a sheet, in one row, and the pixels of a side of each."""
GREY = (230, 230, 230)
DIGITS = 6
"""Significant digits of probabilities."""


@dataclass(frozen=True)
class Classified:
    """An image file, its likeliest class with the probability of that, and the probabilities of all classes."""

    file: Path
    prediction: str
    probability: float
    probabilities: Mapping[str, float]


def classify(
    run: str | Path, images: Sequence[Path], *, trust: Sequence[str] = ()
) -> Iterator[Classified | FailedImage]:
    """What the student of a run sees in files, and in the images of folders, in their order.

    A file that cannot be read is told of and passed over. KDError where there is no such student, where a folder holds
    no image, and where the student's outputs are not those of its classes.
    """
    student = load(run, trust=trust)
    if student.task.name != "image_classification":
        raise KDError(f"{run} is of the task {student.task.name}: it does not classify images")
    named, notes = named_images(images)
    for note in notes:
        Reporter().info(str(note))
    files = [file for _, file in named]
    for start in range(0, len(files), CHUNK):
        yield from _classified(student, files[start : start + CHUNK])


def _classified(student: Student, files: Sequence[Path]) -> Iterator[Classified | FailedImage]:
    """The answers for some files."""
    read: dict[Path, Tensor] = {}
    failed: dict[Path, FailedImage] = {}
    for file in files:
        try:
            read[file] = student.preprocess(file)
        except KDError as error:
            failed[file] = FailedImage(file.stem, file, str(error))
    shares = dict(zip(read, _probabilities(student, list(read.values())), strict=True))
    for file in files:
        yield failed[file] if file in failed else _answer(student, file, shares[file])


def _probabilities(student: Student, images: Sequence[Tensor]) -> Iterator[Tensor]:
    """(classes,) for each image (1, C, H, W): together where all have one size, else one by one."""
    together = len({image.shape for image in images}) == 1
    for batch in [torch.cat(list(images))] if together else images:
        with torch.no_grad():
            logits = logits_of(student.task.call(student.model, batch))
        if logits.ndim != 2 or (student.classes is not None and logits.shape[1] != len(student.classes)):
            raise KDError(f"the student has {len(student.classes or ())} classes, and returns {tuple(logits.shape)}")
        if not logits.isfinite().all():
            raise KDError("the student's outputs are not finite: it predicts nothing")
        yield from logits.double().softmax(1).cpu()


def _answer(student: Student, file: Path, shares: Tensor) -> Classified:
    names = student.classes or tuple(map(str, range(len(shares))))
    rounded = [float(f"{share:.{DIGITS}g}") for share in shares.tolist()]
    best = int(shares.argmax())
    return Classified(file, names[best], rounded[best], dict(zip(names, rounded, strict=True)))


def write_results(out: Path, answers: Sequence[Classified]) -> list[Path]:
    """Write the answers to ``out``: a .csv or .jsonl file, or a folder for the table and the sheet; returns the files.

    KDError where it would lie in a folder that is not there.
    """
    if out.suffix in (".csv", ".jsonl"):
        if not out.parent.is_dir():
            raise KDError(f"{out}: there is no folder {out.parent}")
        write_text(out, table(answers) if out.suffix == ".csv" else rows(answers))
        return [out]
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / TABLE, table(answers))
    if not answers:
        return [out / TABLE]
    save(sheet(answers[:SHOWN]), out / SHEET, MADE_BY)
    return [out / TABLE, out / SHEET]


def table(answers: Sequence[Classified]) -> str:
    """CSV: file, prediction, probability, and a column for each class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = answers[0].probabilities if answers else {}
    writer.writerow(["file", "prediction", "probability", *map(for_cell, classes)])
    for answer in answers:
        cells: list[Any] = [for_cell(str(answer.file)), for_cell(answer.prediction), answer.probability]
        writer.writerow([*cells, *answer.probabilities.values()])
    return text.getvalue()


def rows(answers: Sequence[Classified]) -> str:
    """JSON objects, one a line."""
    return "".join(json_text(vars(answer)) + "\n" for answer in answers)


def sheet(answers: Sequence[Classified]) -> Image:
    """Small pictures in rows, each over its probability and its class, which is cut where it is long."""
    from PIL import Image, ImageDraw

    across, text = min(ACROSS, len(answers)), TEXT * 2 // 3
    step_x, step_y = SIDE + GAP, SIDE + line_of(text) + GAP
    down = -(-len(answers) // across)
    picture = Image.new("RGB", (across * step_x - GAP + 2 * MARGIN, down * step_y + 2 * MARGIN), WHITE)
    draw = ImageDraw.Draw(picture)
    for number, answer in enumerate(answers):
        left, top = MARGIN + number % across * step_x, MARGIN + number // across * step_y
        picture.paste(thumbnail(answer.file), (left, top))
        write(draw, (left, top + SIDE + 2), f"{100 * answer.probability:.0f} % {answer.prediction}", text, SIDE)
    return picture


def thumbnail(file: Path) -> Image:
    """An image in a square of :data:`SIDE` pixels on white; grey where it cannot be shown without its white."""
    from PIL import Image, ImageOps

    try:
        image = ImageOps.contain(read_image(file), (SIDE, SIDE))
    except KDError:
        image = Image.new("RGB", (SIDE, SIDE), GREY)
    square = Image.new("RGB", (SIDE, SIDE), WHITE)
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return square
