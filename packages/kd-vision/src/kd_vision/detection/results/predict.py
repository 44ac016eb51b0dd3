"""What a student and its teacher detect in images: as pictures, and as COCO's results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from kd_core.data.batch import SHARED, STUDENT, Batch
from kd_core.data.images import Brightness, read_image
from kd_core.device.runtime import Runtime
from kd_core.errors import ConfigError, KDError, error_path, foreign_errors
from kd_core.evaluation import LoadedStudent, load_student
from kd_core.files import json_text, write_text
from kd_core.pictures import Pixels, save
from kd_core.prediction import TEACHER, FailedImage, check_split_name, free_names, named_images, split_of, teacher_of
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.sources import BoxSubset
from kd_vision.detection.data.splits import DetectionSplit
from kd_vision.detection.metrics import check_list
from kd_vision.detection.results.objects import Objects, annotated_objects, coco_results, detections
from kd_vision.detection.results.pictures import MADE_BY, class_panel, side_by_side
from kd_vision.detection.results.truth import Truth, read_truth
from kd_vision.detection.task import ObjectDetection

if TYPE_CHECKING:
    from PIL.Image import Image

RESULTS = "predictions.json"
THRESHOLD = 0.5
"""The score from which on a detection is drawn, unless another is given."""


@dataclass(frozen=True)
class SavedImage:
    """One image whose picture was written: the file it is in, where that is known, and its size in pixels.

    ``image_id`` is its number in the file of results. ``objects`` are the numbers of objects drawn by class, the most
    first, of the truth and of each model.
    """

    name: str
    source: Path | None
    picture: Path
    width: int
    height: int
    image_id: int
    objects: Mapping[str, Mapping[str, int]]


class ImageSet(Protocol):
    """N images to look at, read one by one."""

    @property
    def info(self) -> DetectionInfo:
        """What is known of their classes."""
        ...

    def __len__(self) -> int: ...

    def name(self, position: int) -> str:
        """The name of an image, of which that of its picture is made."""
        ...

    def source(self, position: int) -> Path | None:
        """The file that an image is read from, where there is one."""
        ...

    def image_id(self, position: int) -> int:
        """The number of an image in the file of results."""
        ...

    def read(self, position: int) -> tuple[Image, Objects | None]:
        """An image in RGB and its truth, where that is known; KDError naming a broken file."""
        ...


@dataclass(frozen=True)
class SplitImages:
    """The images of a part of the data."""

    part: BoxSubset
    info: DetectionInfo

    def __len__(self) -> int:
        return len(self.part)

    def name(self, position: int) -> str:
        """The data set's own name."""
        return self.part.name(position)

    def source(self, position: int) -> Path | None:
        """The file, where images are read from such."""
        return next(iter(self.part.boxes.paths(int(self.part.rows[position]))), None)

    def image_id(self, position: int) -> int:
        """The data set's own number."""
        return self.part.annotated(position).image_id

    def read(self, position: int) -> tuple[Image, Objects]:
        """The image and its annotations."""
        image, annotated = self.part.read(position)
        return image, annotated_objects(annotated, image)


@dataclass(frozen=True)
class FileImages:
    """Images in files, numbered as the truth numbers them or, without one, from 1."""

    named: Sequence[tuple[str, Path]]
    info: DetectionInfo
    truth: Truth | None = None

    def __len__(self) -> int:
        return len(self.named)

    def name(self, position: int) -> str:
        """The name of the file, without its ending; in a folder that was given its path below that."""
        return self.named[position][0]

    def source(self, position: int) -> Path:
        """The file."""
        return self.named[position][1]

    def image_id(self, position: int) -> int:
        """The number in the truth, or the position from 1."""
        return position + 1 if self.truth is None else self.truth.annotated(position).image_id

    def read(self, position: int) -> tuple[Image, Objects | None]:
        """The image and, with a truth, its annotations; KDError where their sizes differ."""
        image = read_image(self.source(position))
        if self.truth is None:
            return image, None
        return image, annotated_objects(self.truth.of(position, image), image)


def predict(
    target: str | Path | None,
    images: Sequence[Path] = (),
    *,
    out: Path,
    split: str | None = None,
    limit: int | None = None,
    truth: Path | None = None,
    threshold: float = THRESHOLD,
    teacher: bool | None = None,
    **options: Any,
) -> Iterator[SavedImage | FailedImage]:
    """Write what a run's student detects in ``images``, files and folders, or in ``limit`` images of a ``split``.

    ``out`` gets NAME.png, the truth where there is one, the teacher and the student side by side, each object whose
    score is at least ``threshold``; and predictions.json, all that the student detects, in COCO's format of results.
    ``truth`` is a file of annotations in COCO's format that has the images by their file names. With ``teacher`` True
    the config's teacher is shown, fetched where need be; None shows it where its weights are on this machine.
    ``options`` are those of :func:`kd_core.evaluation.load_student`. An image is written when the next is asked for,
    predictions.json at the end; one that cannot be read is a :class:`FailedImage`, and the others are done. KDError for
    a truth, a split or a teacher that is missing or broken.
    """
    with load_student(target, **options) as student:
        data, image_set = of_split(student, split, limit) if split else of_files(student, images, truth)
        check_results_file(out / RESULTS, truth)
        model, runtime = student.build(image_set.info)
        other = teacher_of(student, teacher, image_set.info, runtime)
        models = {STUDENT: model} if other is None else {TEACHER: other, STUDENT: model}
        detector = Detector(student, models, runtime, image_set.info, data)
        out.mkdir(parents=True, exist_ok=True)
        yield from Drawer(detector, image_set, out, threshold).images(silent=bool(split))


def detection_task(student: LoadedStudent, verb: str) -> ObjectDetection:
    """The task of a student's config; KDError where that is another one."""
    task = student.plan.task
    if not isinstance(task, ObjectDetection):
        raise KDError(f"{student.run or 'the config'} is of the task {task.name}: {verb} is of object_detection alone")
    return task


def of_split(student: LoadedStudent, name: str, limit: int | None) -> tuple[Any, SplitImages]:
    """The data, and the first ``limit`` images of a split, or all; KDError where there is no such split."""
    detection_task(student, "predict")
    check_split_name(name)
    data, splits = student.read()
    split = split_of(splits, name)
    assert isinstance(split, DetectionSplit)
    assert isinstance(splits.info, DetectionInfo)
    return data, SplitImages(split.part.take(torch.arange(min(len(split), limit or len(split)))), splits.info)


def of_files(student: LoadedStudent, images: Sequence[Path], truth: Path | None) -> tuple[Any, FileImages]:
    """The data, and files and folders of images; of the data none is read unless only that tells the classes."""
    data = student.plan.data
    info = detection_task(student, "predict").info(data)
    if info.classes is None:
        read = student.read()[1].info
        assert isinstance(read, DetectionInfo)
        info = read
    named, notes = named_images(images)
    student.say(notes)
    files = [path for _, path in named]
    return data, FileImages(named, info, None if truth is None else read_truth(truth, files, info, masks=data.masks))


def check_results_file(path: Path, truth: Path | None) -> None:
    """KDError where results would take the place of a file that is not one of results."""
    if not path.exists():
        return
    with path.open("rb") as file:
        is_list = file.read(64).lstrip().startswith(b"[")
    if not is_list or (truth is not None and truth.resolve() == path.resolve()):
        raise KDError(f"{path} is not a file of results: it would be lost", hint="name another folder with --out")


class NotTaken(ConfigError):
    """An image that a model cannot take: it is too narrow to be scaled, for example."""


@dataclass(frozen=True)
class Detector:
    """Models on their device, and how they are called."""

    student: LoadedStudent
    models: Mapping[str, nn.Module]
    runtime: Runtime
    info: DetectionInfo
    data: Any

    def __call__(self, image: Pixels, row: int) -> dict[str, Objects]:
        """What each model finds in an image (h, w, 3), which is alone in its batch: others would change its padding."""
        task, runtime, size = self.student.plan.task, self.runtime, (image.shape[0], image.shape[1])
        wants = {name: self.student.plan.inputs[name] for name in self.models}
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        raw = Batch({SHARED: {"images": [pixels]}}, [{}], torch.tensor([row]))
        found = {}
        with torch.no_grad(), runtime.autocast(), runtime.compiled(usual=False):
            batch = runtime.format(task.prepare(raw.to(runtime.device), wants, self.data, training=False))
            for name, model in self.models.items():
                doing = f"the forward pass on an image of {size[1]} x {size[0]} pixels"
                try:
                    with foreign_errors(doing, "models", name):
                        output = task.call(model.eval(), batch.for_model(name))
                except KDError as error:
                    raise NotTaken(error.problems) from error
                with error_path("models", name):
                    check_list(output, 1)
                found[name] = detections(output[0], self.info.num_classes, size, name)
        return found


@dataclass
class Drawer:
    """Draws images one by one, and keeps the student's results."""

    detector: Detector
    image_set: ImageSet
    out: Path
    threshold: float
    results: list[dict[str, Any]] = field(default_factory=list)

    def images(self, *, silent: bool) -> Iterator[SavedImage | FailedImage]:
        """Each image once it is drawn; the file of results is written after the last. ``silent``: nothing is said of
        the images but what fails."""
        count = range(len(self.image_set))
        sources = [source for position in count if (source := self.image_set.source(position)) is not None]
        names = [self.image_set.name(position) for position in count]
        names = free_names(names, partial(picture_paths, self.out), sources, MADE_BY)
        brightness = Brightness()
        for position, name in enumerate(names):
            try:
                image, truth = self.image_set.read(position)
            except KDError as error:
                yield FailedImage(name, self.image_set.source(position), error.problems[0].message)
                continue
            brightness.look(image)
            try:
                saved = self.save(position, name, np.asarray(image), truth)
            except NotTaken as error:
                yield FailedImage(name, self.image_set.source(position), str(error))
                continue
            yield saved
        write_text(self.out / RESULTS, json_text(self.results))
        self.detector.student.say(() if silent else brightness.notes())

    def save(self, position: int, name: str, image: Pixels, truth: Objects | None) -> SavedImage:
        """Write the picture of an image, and keep its results."""
        info, source = self.detector.info, self.image_set.source(position)
        found = self.detector(image, position)
        file, image_id = source.name if source else self.image_set.name(position), self.image_set.image_id(position)
        self.results += coco_results(found[STUDENT], image_id, file, info.category_ids)
        shown = {"truth": truth} if truth is not None else {}
        shown |= {model: objects.at_least(self.threshold) for model, objects in found.items()}
        classes = info.classes or ()
        panels = [class_panel(title(who, objects), image, objects, classes) for who, objects in shown.items()]
        picture = picture_paths(self.out, name)[0]
        save(side_by_side(panels, skeleton=info.skeleton), picture, MADE_BY)
        counts = {who: by_class(objects, classes) for who, objects in shown.items()}
        return SavedImage(name, source, picture, image.shape[1], image.shape[0], image_id, counts)


def title(who: str, objects: Objects) -> str:
    """``student, 3 objects``."""
    return f"{who}, {len(objects)} object{'s' * (len(objects) != 1)}"


def by_class(objects: Objects, classes: Sequence[str]) -> dict[str, int]:
    """How many objects there are of each class, the most first."""
    return {classes[label]: count for label, count in Counter(objects.labels.tolist()).most_common()}


def picture_paths(out: Path, name: str) -> tuple[Path]:
    """The picture of an image."""
    return (out / f"{name}.png",)
