"""Predictions of a student and its teacher for images, as pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kd_core.data.batch import SHARED, STUDENT, Batch, DatasetInfo
from kd_core.data.images import Brightness, read_image
from kd_core.data.screening import Readable
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError
from kd_core.evaluation import LoadedStudent, load_student
from kd_core.models.factory import student_folder
from kd_core.notes import Note
from kd_core.pictures import save
from kd_core.prediction import TEACHER, FailedImage, check_split_name, free_names, named_images, split_of, teacher_of
from kd_seg.data.folders import files_in
from kd_seg.data.image_files import ClassTable, check_same_size, class_values, read_values
from kd_seg.data.sources import VOID, PairSubset
from kd_seg.data.spec import DataSpec
from kd_seg.data.splits import SegSplit
from kd_seg.data.transforms import Mask, Pixels, Whole
from kd_seg.mask_style import MaskStyle, read_style
from kd_seg.metrics import confusion, figures_of, pairs, predicted
from kd_seg.results.pictures import MADE_BY, Panel, palette_mask, side_by_side
from kd_seg.task import SemanticSegmentation

if TYPE_CHECKING:
    from PIL.Image import Image

FEW = 16
"""So many images are read by this process: others would take longer to start."""


@dataclass(frozen=True)
class SavedImage:
    """One image whose pictures were written: the file it is in, where that is known, and its size in pixels.

    ``classes`` are percent of the student's pixels, the most first; ``miou`` is percent by model, empty without truth.
    """

    name: str
    source: Path | None
    picture: Path
    mask: Path
    width: int
    height: int
    classes: Mapping[str, float]
    miou: Mapping[str, float]


@dataclass(frozen=True)
class PredictedImage:
    """One image (h, w, 3) as models were given it, its truth (H, W), VOID where there is none, and by model a mask."""

    row: int
    image: Pixels
    truth: Mask
    masks: Mapping[str, Mask]


@dataclass(frozen=True)
class ImageSet:
    """Whole images to look at: ``names`` are what their pictures are called, by row."""

    split: SegSplit
    names: Mapping[int, str]
    data: DataSpec
    info: DatasetInfo
    sources: Mapping[int, Path] = field(default_factory=dict)
    labelled: bool = True
    style: MaskStyle | None = None
    """How masks are written, None for values with VOC's palette."""


@dataclass(frozen=True)
class FilesToPredict:
    """Images in files, with masks or without, as a split reads them."""

    images: Sequence[Path]
    masks: Sequence[Path] | None
    values: ClassTable
    white: float | None = None
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.images)

    def name(self, row: int) -> str:
        """The name of the file."""
        return self.images[row].stem

    def paths(self, row: int) -> tuple[Path, ...]:
        """The files of the image and of its mask."""
        return (self.images[row], *([] if self.masks is None else [self.masks[row]]))

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """Nothing."""
        return []

    def read(self, row: int) -> tuple[Image, NDArray[np.int16]]:
        """An RGB image and its mask, VOID all over where none was given; KDError naming a broken file."""
        image = read_image(self.images[row], white=self.white)
        if self.masks is None:
            return image, np.full((image.height, image.width), VOID, np.int16)
        mask = self.values.of(read_values(self.masks[row]), self.masks[row])
        check_same_size(self.masks[row], mask, image)
        return image, mask


def predict(
    target: str | Path | None,
    images: Sequence[Path] = (),
    *,
    out: Path,
    split: str | None = None,
    limit: int | None = None,
    truth: Path | None = None,
    teacher: bool | None = None,
    **options: Any,
) -> Iterator[SavedImage | FailedImage]:
    """Write what a run's student sees in ``images``, files and folders, or in ``limit`` images of a ``split``.

    ``out`` gets NAME.png (the image, the truth where there is one, the teacher and the student side by side) and
    NAME_mask.png, the student's classes. ``truth`` is a folder with masks of the images' names. With ``teacher`` True
    the config's teacher is shown, fetched where need be; None shows it where its weights are on this machine.
    ``options`` are those of :func:`kd_core.evaluation.load_student`. An image is written when the next is asked for;
    files that are missing or broken are told first, each a :class:`FailedImage`, and the others are done. KDError for a
    split, a teacher or the folder of masks that is missing or broken.
    """
    with load_student(target, **options) as student:
        if split:
            image_set = of_split(student, split, limit, out)
        else:
            image_set, failed = of_files(student, images, truth, out)
            yield from failed
            if not image_set.names:
                return
        if student.run is not None:
            image_set = replace(image_set, style=read_style(student_folder(student.run)))
        model, runtime = student.build(image_set.info)
        other = teacher_of(student, teacher, image_set.info, runtime)
        models = {STUDENT: model} if other is None else {TEACHER: other, STUDENT: model}
        out.mkdir(parents=True, exist_ok=True)
        brightness = Brightness()
        for image in predictions_of(student, models, runtime, image_set):
            brightness.see(int(image.image.max()))
            yield save_pictures(image, image_set, out)
        student.say(() if split else brightness.notes())


def seg_task(student: LoadedStudent) -> SemanticSegmentation:
    """The task of a student's config; KDError where that is another one than this package's."""
    task = student.plan.task
    if not isinstance(task, SemanticSegmentation):
        raise KDError(f"{student.run or 'the config'} is of the task {task.name}: it is not about segmentation")
    return task


def of_split(student: LoadedStudent, name: str, limit: int | None, out: Path) -> ImageSet:
    """The first ``limit`` images of a split, or all; KDError where there is no such split."""
    seg_task(student)
    check_split_name(name)
    data, splits = student.read()
    split = split_of(splits, name)
    assert isinstance(split, SegSplit)
    part = split.part.take(torch.arange(min(len(split), limit or len(split))))
    rows = part.rows.tolist()
    names = free_names([part.pairs.name(row) for row in rows], partial(picture_paths, out), (), MADE_BY)
    return ImageSet(whole(part, data), dict(zip(rows, names, strict=True)), data, splits.info)


def whole(part: PairSubset, data: DataSpec) -> SegSplit:
    """Images as they are evaluated, those of the training split too."""
    return SegSplit(part, Whole(data.eval_size), workers=0 if len(part) <= FEW else data.workers)


def of_files(
    student: LoadedStudent, images: Sequence[Path], truth: Path | None, out: Path
) -> tuple[ImageSet, list[FailedImage]]:
    """Files and folders of images, and those of them that cannot be read.

    Of the config's data none is read unless only that tells the classes.
    """
    data = student.plan.data
    info: DatasetInfo = seg_task(student).info(data)
    if info.classes is None:
        info = student.read()[1].info
    named, notes = named_images(images)
    student.say(notes)
    files = [path for _, path in named]
    masks = None if truth is None else masks_for(named, truth)
    numbers = data.options.get("values") or range(len(info.classes or ()))
    values, white = class_values(numbers, data.options.get("void", 255)), data.options.get("white")
    pairs = FilesToPredict(files, masks, values, white)
    errors = Readable(pairs.read, pairs.paths, range(len(files))).errors(whole=True)
    failed = [FailedImage(*named[row], error.problems[0].message) for row, error in errors.items()]
    rows = [row for row in range(len(files)) if row not in errors]
    taken = [*files, *(masks or ())]
    names = free_names([named[row][0] for row in rows], partial(picture_paths, out), taken, MADE_BY)
    split = whole(PairSubset(pairs).take(torch.tensor(rows, dtype=torch.int64)), data)
    shown = dict(zip(rows, names, strict=True))
    return ImageSet(split, shown, data, info, dict(enumerate(files)), masks is not None), failed


def masks_for(named: Sequence[tuple[str, Path]], folder: Path) -> list[Path]:
    """The masks of images in a folder, by their names; KDError for an image without one."""
    masks = files_in(folder)
    for name, path in named:
        if name not in masks:
            raise KDError(f"{folder}: contains no mask {name}.* for {path}")
    return [masks[name] for name, _ in named]


def picture_paths(out: Path, name: str) -> tuple[Path, Path]:
    """The picture of the panels, and that of the student's classes."""
    return out / f"{name}.png", out / f"{name}_mask.png"


def predictions_of(
    student: LoadedStudent, models: Mapping[str, nn.Module], runtime: Runtime, image_set: ImageSet
) -> Iterator[PredictedImage]:
    """The masks that each model predicts for each image."""
    plan, size = student.plan, student.batch_size
    wants = {name: plan.inputs[name] for name in models}
    for model in models.values():
        model.eval()
    order = torch.arange(len(image_set.split)).split(size)
    for raw in image_set.split.batches(order, epoch=0, seed=0, augment=False):
        predictions: dict[str, list[Mask]] = {}
        with torch.no_grad(), runtime.autocast(), runtime.compiled(usual=False):
            batch = runtime.format(plan.task.prepare(raw.to(runtime.device), wants, image_set.data, training=False))
            for name, model in models.items():
                output = plan.task.call(model, batch.for_model(name))
                predictions[name] = masks_of(name, output, batch, image_set.info.model_parameters.get("num_classes"))
        for number, row in enumerate(raw.index.tolist()):
            pixels: Tensor = raw.inputs[SHARED][number]
            masks = {name: model_masks[number] for name, model_masks in predictions.items()}
            yield PredictedImage(
                row, pixels.permute(1, 2, 0).numpy(), raw.target[number].numpy().astype(np.int16), masks
            )


def masks_of(name: str, output: Any, batch: Batch, num_classes: int | None) -> list[Mask]:
    """The likeliest classes (H, W) of each image of a batch; KDError for outputs that are not those of the classes."""
    masks: list[Mask] = []
    for logits, target in pairs(output, batch.target, None):
        if num_classes not in (None, logits.shape[1]):
            raise KDError(f"predicts {logits.shape[1]} classes, and the data have {num_classes}", path=f"models.{name}")
        if not logits.isfinite().all():
            raise KDError("its outputs are not finite: it predicts nothing", path=f"models.{name}")
        masks += list(predicted(logits, target.shape[-2:]).cpu().numpy().astype(np.int16))
    return masks


def save_pictures(image: PredictedImage, image_set: ImageSet, out: Path) -> SavedImage:
    """Write the pictures of one image."""
    name, student = image_set.names[image.row], image.masks[STUDENT]
    picture, mask_file = picture_paths(out, name)
    classes = image_set.info.classes or tuple(map(str, range(int(student.max()) + 1)))
    scores = {model: miou_of(mask, image.truth, len(classes)) for model, mask in image.masks.items()}
    scores = {model: score for model, score in scores.items() if not np.isnan(score)}
    truth = image.truth if image_set.labelled else None
    save(side_by_side(panels_of(image.image, truth, image.masks, scores), classes), picture, MADE_BY)
    style = image_set.style
    fits = style is not None and len(style.values) >= len(classes)
    save(style.picture(student) if style is not None and fits else palette_mask(student), mask_file, MADE_BY)
    pixels = np.bincount(student.ravel(), minlength=len(classes))
    share = {classes[kind]: 100 * int(pixels[kind]) / student.size for kind in np.argsort(-pixels) if pixels[kind]}
    height, width = student.shape
    return SavedImage(name, image_set.sources.get(image.row), picture, mask_file, width, height, share, scores)


def panels_of(image: Pixels, truth: Mask | None, masks: Mapping[str, Mask], scores: Mapping[str, float]) -> list[Panel]:
    """The image, its truth where there is one, and what each model sees, with its mean IoU where that is known."""
    panels = [Panel("image", image), *([] if truth is None else [Panel("truth", image, truth)])]
    for name, mask in masks.items():
        panels.append(Panel(f"{name}, mIoU {scores[name]:.1f}" if name in scores else name, image, mask))
    return panels


def miou_of(mask: Mask, truth: Mask, num_classes: int) -> float:
    """Percent, over the classes that an image's truth or its prediction has; NaN where the truth is void all over."""
    matrix = confusion(torch.from_numpy(mask), torch.from_numpy(truth), num_classes)
    return figures_of(matrix.numpy())["miou"]
