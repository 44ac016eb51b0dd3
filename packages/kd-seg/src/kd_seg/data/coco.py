"""COCO 2017 (Lin et al., ECCV 2014) in VOC's classes: masks drawn from the annotations of instances.

As in torchvision's reference scripts (``references/segmentation/coco_utils.py``): every instance of a VOC class, crowds
included, is drawn; where several overlap the pixel is void, whatever their classes. Training images are chosen as there
by what the instances of these classes cover, or, as in torchdistill's recipe, by any annotation (:data:`TrainImages`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from kd_core.data.fingerprint import FileContents
from kd_core.data.images import read_image
from kd_core.data.packed import Packed
from kd_core.data.shapes import Shape, pixels_of
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_seg.data.annotations import parse
from kd_seg.data.sources import SOURCES, VOC_CLASSES, VOID, MaskSource, PairSubset

if TYPE_CHECKING:
    from PIL.Image import Image

CATEGORIES = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
"""COCO's category of each of VOC's classes; the background has none."""
COCO_NAMES = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""What COCO calls VOC's classes, where its names are others."""
NAMED = {number: COCO_NAMES.get(name, name) for number, name in zip(CATEGORIES[1:], VOC_CLASSES[1:], strict=True)}
SHOWN = 3
"""Annotations that a note names."""
AREA = 1000
"""The instances of VOC's classes in a training image must cover more pixels than that, by their annotated areas."""
TrainImages = Literal["voc_classes", "annotated"]
"""Which training images count: those with more than ``AREA`` pixels of VOC's classes (92,518), or with any instance
of COCO's 80 categories whose box is more than a pixel wide and high (117,266; torchvision's rule for detection)."""
SITE = "https://cocodataset.org/#download"


@dataclass(frozen=True)
class AnnotatedImage:
    """An image's file, the classes and shapes of its instances, and its (width, height) where they are told.

    ``undrawn`` and ``unknown`` are annotations without a pixel, and of categories that there are not.
    """

    file: str
    classes: tuple[int, ...]
    shapes: tuple[Shape, ...]
    size: tuple[int, int] | None = None
    undrawn: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


class CocoPairs:
    """Images of a split with the masks of their instances. Annotations are read when they are first needed."""

    def __init__(self, root: Path, split: str, choice: TrainImages | None = None) -> None:
        self.folder = root / split
        self.file = root / "annotations" / f"instances_{split}.json"
        self.choice = choice

    def _annotations(self) -> bytes:
        """The file's content; KDError where it or the images are not there."""
        for path, there in ((self.folder, self.folder.is_dir()), (self.file, self.file.is_file())):
            if not there:
                layout = "data.root is the folder that holds train2017, val2017 and annotations"
                raise KDError(f"there is no {path}: {layout}", hint=f"they are at {SITE}")
        return self.file.read_bytes()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the annotations and of the images that they name."""
        state = hashlib.sha256(self._annotations())
        images = FileContents(self.folder, [self.folder / image.file for image in self.images])
        state.update(f"{self.choice} {images}".encode())
        return state.hexdigest()[:16]

    @cached_property
    def images(self) -> Sequence[AnnotatedImage]:
        """The images in the order of their numbers; KDError for annotations of another form, or a missing image."""
        annotated_only = self.choice == "annotated"
        try:
            entries = parse(self._annotations(), NAMED, boxes=annotated_only)
        except KDError as error:
            raise error if self.file.name in str(error) else KDError(f"{self.file}: {error}") from error
        chosen = [
            entry
            for entry in entries
            if self.choice is None or (entry.boxed if annotated_only else sum(entry.areas) > AREA)
        ]
        images = [
            AnnotatedImage(
                entry.file,
                tuple(map(CATEGORIES.index, entry.categories)),
                tuple(entry.shapes),
                entry.size,
                tuple(entry.undrawn),
                tuple(entry.unknown),
            )
            for entry in chosen
        ]
        missing = [image.file for image in images if not (self.folder / image.file).is_file()]
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise KDError(f"{self.folder / missing[0]} is missing{more}, which {self.file} names")
        return Packed(images)

    def __len__(self) -> int:
        return len(self.images)

    def notes(self, rows: NDArray[np.int64]) -> list[Note]:
        """Lines on annotations of images that are drawn nowhere: they have no pixel, or no category."""
        images = [self.images[row] for row in rows.tolist()]
        undrawn = [f"{name} of {image.file}" for image in images for name in image.undrawn]
        unknown = [f"{name} of {image.file}" for image in images for name in image.unknown]
        without = "no polygon with an area and no run of pixels"
        return [
            *self._note(undrawn, f"with {without}: nothing is drawn for them"),
            *self._note(unknown, "of categories that there are not: nothing is drawn for them"),
        ]

    def _note(self, names: list[str], what: str) -> list[Note]:
        """A line on annotations, the first of them by name; none where there are none."""
        more = ", ..." if len(names) > SHOWN else ""
        listed = ", ".join(names[:SHOWN]) + more
        count = "1 annotation" if len(names) == 1 else f"{len(names):,} annotations"
        return [Note.warning(f"{self.file} has {count} {what} ({listed})")] if names else []

    def name(self, row: int) -> str:
        """The name of the image's file, without its ending."""
        return Path(self.images[row].file).stem

    def paths(self, row: int) -> tuple[Path]:
        """The image's file."""
        return (self.folder / self.images[row].file,)

    def read(self, row: int) -> tuple[Image, NDArray[np.int16]]:
        """An RGB image and its mask; KDError for a broken file, or a shape that cannot be drawn."""
        annotated = self.images[row]
        path = self.folder / annotated.file
        image = read_image(path)
        if annotated.size not in (None, image.size):
            told = " x ".join(map(str, annotated.size or ()))
            raise KDError(f"{path}: is {image.width} x {image.height} pixels, and {self.file} says {told}")
        try:
            return image, draw(annotated, image.height, image.width)
        except Exception as error:  # of pycocotools, which tells little of what it was given
            raise KDError(f"{self.file}: the instances of {annotated.file} cannot be drawn ({error})") from error


def draw(annotated: AnnotatedImage, height: int, width: int) -> NDArray[np.int16]:
    """The mask (height, width): background, classes, and VOID where instances overlap."""
    classes = np.zeros((height, width), np.int16)
    over = np.zeros((height, width), np.uint8)
    for kind, shape in zip(annotated.classes, annotated.shapes, strict=True):
        inside = pixels_of(shape, height, width).astype(bool)
        classes[inside] = kind
        over += inside & (over < 2)
    classes[over > 1] = VOID
    return classes


def read_coco(root: Path, *, train_images: TrainImages = "voc_classes") -> Parts[PairSubset]:
    """``train2017`` and ``val2017`` of a folder that holds ``annotations`` too; there is no download."""
    train, val = CocoPairs(root, "train2017", train_images), CocoPairs(root, "val2017")
    places = {"train": str(train.folder), "val": str(val.folder)}
    return Parts(PairSubset(train), PairSubset(val), None, VOC_CLASSES, places)


SOURCES("coco2017")(
    MaskSource(
        "COCO 2017 in VOC's classes: 92,518 + 5,000 images, 20 classes and background; to be downloaded by hand",
        read_coco,
        splits=("train", "val"),
        classes=VOC_CLASSES,
        size=520,
        crop=(480, 480),
    )
)
