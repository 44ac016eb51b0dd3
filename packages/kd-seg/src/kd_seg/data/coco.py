"""COCO 2017 (Lin et al., ECCV 2014) in VOC's classes: masks drawn from the annotations of instances.

As in torchvision's reference scripts (``references/segmentation/coco_utils.py``): every instance of a VOC class, crowds
included, is drawn; where several overlap the pixel is void, whatever their classes. Training images are chosen as there
by what the instances of these classes cover, or, as in torchdistill's recipe, by any annotation (:data:`TrainImages`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kd_core.data.fingerprint import FileContents
from kd_core.data.images import read_image
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_seg.data.sources import SOURCES, VOC_CLASSES, VOID, MaskSource, PairSubset

if TYPE_CHECKING:
    from PIL.Image import Image

CATEGORIES = (0, 5, 2, 16, 9, 44, 6, 3, 17, 62, 21, 67, 18, 19, 4, 1, 64, 20, 63, 7, 72)
"""COCO's category of each of VOC's classes; the background has none."""
AREA = 1000
"""The instances of VOC's classes in a training image must cover more pixels than that, by their annotated areas."""
TrainImages = Literal["voc_classes", "annotated"]
"""Which training images count: those with more than ``AREA`` pixels of VOC's classes (92,518), or with any instance
of COCO's 80 categories whose box is more than a pixel wide and high (117,266; torchvision's rule for detection)."""
SITE = "https://cocodataset.org/#download"
Shape = Mapping[str, Any] | list[NDArray[np.float64]]
"""One instance: run lengths as COCO writes them, or polygons of x, y, x, y, ..."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image's file, and the classes and shapes of its instances."""

    file: str
    classes: tuple[int, ...]
    shapes: tuple[Shape, ...]


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
    def images(self) -> list[AnnotatedImage]:
        """The images in the order of their numbers; KDError for annotations of another form, or a missing image."""
        text = self._annotations()
        try:
            content = json.loads(text)
            files = {int(entry["id"]): str(entry["file_name"]) for entry in content["images"]}
            instances: dict[int, list[tuple[int, Shape, float]]] = {number: [] for number in sorted(files)}
            annotated: set[int] = set()
            for entry in content["annotations"]:
                if self.choice == "annotated" and min(entry["bbox"][2:]) > 1:
                    annotated.add(int(entry["image_id"]))
                if (category := int(entry["category_id"])) in CATEGORIES:
                    row = (CATEGORIES.index(category), shape_of(entry["segmentation"]), float(entry["area"]))
                    instances[int(entry["image_id"])].append(row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise KDError(f"{self.file}: has no instance annotations in COCO's format ({reason})") from error
        images = [
            AnnotatedImage(files[number], tuple(row[0] for row in rows), tuple(row[1] for row in rows))
            for number, rows in instances.items()
            if self.choice is None
            or (number in annotated if self.choice == "annotated" else sum(row[2] for row in rows) > AREA)
        ]
        missing = [image.file for image in images if not (self.folder / image.file).is_file()]
        if missing:
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise KDError(f"{self.folder / missing[0]} is missing{more}, which {self.file} names")
        return images

    def __len__(self) -> int:
        return len(self.images)

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
        try:
            return image, draw(annotated, image.height, image.width)
        except Exception as error:  # of pycocotools, which tells little of what it was given
            raise KDError(f"{self.file}: the instances of {annotated.file} cannot be drawn ({error})") from error


def shape_of(segmentation: Any) -> Shape:
    """An instance as it is kept: polygons as arrays, which take a tenth of the memory of lists."""
    if isinstance(segmentation, Mapping):
        return {"size": segmentation["size"], "counts": segmentation["counts"]}
    return [np.asarray(polygon, np.float64) for polygon in segmentation]


def draw(annotated: AnnotatedImage, height: int, width: int) -> NDArray[np.int16]:
    """The mask (height, width): background, classes, and VOID where instances overlap."""
    from pycocotools import mask as runs

    classes = np.zeros((height, width), np.int16)
    over = np.zeros((height, width), np.uint8)
    for kind, shape in zip(annotated.classes, annotated.shapes, strict=True):
        if not shape:  # no polygon
            continue
        pixels = runs.decode(runs.frPyObjects(shape, height, width))
        inside = pixels.any(2) if pixels.ndim == 3 else pixels.astype(bool)
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
