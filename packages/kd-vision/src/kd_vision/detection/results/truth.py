"""Annotations of image files in a file of COCO's format, for the classes of a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from kd_core.data.images import check_header
from kd_core.data.screening import listed
from kd_core.errors import KDError
from kd_vision.detection.data.annotations import AnnotationFile, ImageColumns, boxes_of, read_file
from kd_vision.detection.data.categories import NOWHERE, Categories
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.data.sources import Annotated
from kd_vision.detection.data.table import FileBoxes

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Truth:
    """The annotations of images, ``rows`` of ``boxes`` by the position of each image among those that are drawn."""

    boxes: FileBoxes
    rows: Mapping[int, int]

    def annotated(self, position: int) -> Annotated:
        """What is said of an image."""
        return self.boxes.annotated(self.rows[position])

    def of(self, position: int, image: Image) -> Annotated:
        """The same; KDError where the file says that the image has another size."""
        annotated = self.annotated(position)
        if annotated.size != (image.height, image.width):
            height, width = self.boxes.size(self.rows[position])
            message = f"is {image.width} x {image.height} pixels, and {self.boxes.faults.place} says {width} x {height}"
            raise KDError(f"{self.boxes.paths(self.rows[position])[0]}: {message}")
        return annotated


def read_truth(path: Path, files: Sequence[Path], info: DetectionInfo, *, masks: bool) -> Truth:
    """The annotations of ``files``, which the file has by their names; those that cannot be opened have none.

    With ``masks`` and, where the classes have any, with keypoints. KDError where the file is broken, where it has no
    such image, and where it has an annotation of a category that is not among the model's classes.
    """
    file = read_file(path, masks=masks, keypoints=bool(info.keypoint_names))
    entries = {position: entry_of(file, image) for position, image in enumerate(files) if opens(image)}
    folder = Path(os.path.commonpath([image.resolve().parent for image in files]))
    columns = ImageColumns(seen=file.images.seen)
    for position, entry in entries.items():
        columns.ids.append(file.images.ids[entry])
        columns.files.append(files[position].resolve().relative_to(folder).as_posix())
        columns.sizes.append(file.images.sizes[entry])
    boxes = boxes_of(replace(file, images=columns), folder, categories_for(file, info), lenient=True)
    if boxes.faults.messages:
        raise KDError(f"{path}: the annotations of these images have faults:{listed(boxes.faults.messages)}")
    places = {int(number): row for row, number in enumerate(boxes.images.ids)}
    return Truth(boxes, {position: places[file.images.ids[entry]] for position, entry in entries.items()})


def opens(image: Path) -> bool:
    """Whether a file is there and begins as an image."""
    with suppress(KDError):
        check_header(image)
        return True
    return False


def entry_of(file: AnnotationFile, image: Path) -> int:
    """The place of an image in a file's list, by the end of its path, or by its name alone; KDError without one."""
    parts, names = image.resolve().parts, [PurePosixPath(name).parts for name in file.images.files]
    alike = [place for place, name in enumerate(names) if name[-1:] == parts[-1:]]
    chosen = [place for place in alike if names[place] == parts[-len(names[place]) :]] or alike
    if len(chosen) != 1:
        many = f"{len(chosen)} images" if chosen else "no image"
        raise KDError(f"{file.path}: contains {many} {image.name}")
    return chosen[0]


def categories_for(file: AnnotationFile, info: DetectionInfo) -> Categories:
    """The model's classes, with the numbers that a file has for classes of these names."""
    by_name = {name: number for number, name in file.by_id.items()}
    names = info.classes or ()
    free = NOWHERE - len(names)
    numbers = tuple(by_name.get(name, free - label) for label, name in enumerate(names))
    return Categories(names, numbers, info.ignored, info.keypoint_names, info.skeleton)
