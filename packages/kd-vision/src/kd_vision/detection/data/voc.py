"""PASCAL VOC's layout of detection (Everingham et al.): an XML file for each image, and lists of names.

Pixels count from 1 in these files, and boxes include their last pixel: xmin, ymin, xmax, ymax become x1 = xmin - 1,
y1 = ymin - 1, x2 = xmax, y2 = ymax, so that a box of 1 .. width covers the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated
from xml.etree import ElementTree

from pydantic import Field

from kd_core.data.images import image_files, image_size
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_vision.detection.data.categories import VOC_CLASSES, Categories, check_classes
from kd_vision.detection.data.rows import ImageObject, ImageRows
from kd_vision.detection.data.sources import SOURCES, BoxSource, BoxSubset
from kd_vision.detection.data.table import FileBoxes, is_unsafe

PLACES = ("{0}", "VOCdevkit/{0}", "TrainVal/VOCdevkit/{0}", "")
"""Folders below ``data.root`` in which those of a year, ``VOC2012``, are looked for."""
LISTS = Path("ImageSets") / "Main"
Lists = list[str]
"""Lists of names, each a :data:`LIST`."""
LIST = re.compile(r"\d{4}_[\w-]+", re.ASCII)
"""A year and the name of a file in ``ImageSets/Main``: ``2012_trainval``."""
SIDES = ("xmin", "ymin", "xmax", "ymax")
ClassNames = Annotated[list[str], Field(min_length=1)]


def read_voc(
    root: Path,
    *,
    train_lists: Lists = ["2012_train"],  # noqa: B006  an option's default: it is shown, and never changed
    val_lists: Lists | None = ["2012_val"],  # noqa: B006
    test_lists: Lists | None = None,
    difficult: bool = False,
    classes: ClassNames | None = None,
) -> Parts[BoxSubset]:
    """The images of some lists; ``difficult``: objects that are marked so train too. They are never scored."""
    categories = VOC if classes is None else Categories.listed(classes)
    given = {"train": train_lists, "val": val_lists, "test": test_lists}
    names = {split: list(_named(root, lists)) for split, lists in given.items() if lists}
    _check_disjoint(names)
    places = {split: f"{root} ({', '.join(given[split] or ())})" for split in names}
    parts = {
        split: BoxSubset(VocReader(root, categories, difficult=difficult).boxes(places[split], found))
        for split, found in names.items()
    }
    return Parts(parts["train"], parts.get("val"), parts.get("test"), categories.names, places)


def check_voc(
    *,
    train_lists: Lists,
    val_lists: Lists | None = None,
    test_lists: Lists | None = None,
    classes: Sequence[str] | None = None,
    **_: object,
) -> None:
    """KDError where there is nothing to train on, a list has no year, or a class has two places."""
    if not train_lists:
        raise KDError("names no list", path="train_lists")
    for key, lists in {"train_lists": train_lists, "val_lists": val_lists, "test_lists": test_lists}.items():
        if wrong := [entry for entry in lists or () if not LIST.fullmatch(entry)]:
            form = "a year and the name of a file in ImageSets/Main, as 2012_trainval"
            raise KDError(f"must be {form}, not {wrong[0]!r}", path=key)
    check_classes(classes=classes)


def find_folder(root: Path, year: str) -> Path:
    """The folder of a year that holds ``JPEGImages``; KDError where there is none."""
    for place in PLACES:
        folder = root / place.format(f"VOC{year}")
        if (folder / "JPEGImages").is_dir():
            return folder
    hint = "data.root is the folder that holds VOCdevkit; the archives are at http://host.robots.ox.ac.uk/pascal/VOC/"
    raise KDError(f"{root}: contains no VOCdevkit/VOC{year} with JPEGImages", hint=hint, path="root")


def _named(root: Path, lists: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """The folder and the name of each image of some lists; KDError for one that is missing or empty."""
    for entry in lists:
        year, _, name = entry.partition("_")
        folder = find_folder(root, year)
        path = folder / LISTS / f"{name}.txt"
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            message = getattr(error, "strerror", None) or error
            raise KDError(f"{path}: is not a readable list of names ({message})") from error
        found = [line.split()[0] for line in lines if line.split()]
        if not found:
            raise KDError(f"{path}: lists no image")
        yield from ((folder, image) for image in found)


def _check_disjoint(names: Mapping[str, Sequence[tuple[Path, str]]]) -> None:
    """KDError where an image is listed twice: in two splits, or in one."""
    seen: dict[tuple[Path, str], str] = {}
    for split, found in names.items():
        for image in found:
            if (other := seen.get(image)) is not None:
                where = f"twice in {split}_lists" if other == split else f"in {other}_lists and in {split}_lists"
                raise KDError(f"the image {image[1]} is {where}", path=f"{split}_lists")
            seen[image] = split


class VocReader:
    """Reads the XML files of images; ``difficult``: objects that are marked so train."""

    def __init__(self, root: Path, categories: Categories, *, difficult: bool) -> None:
        self.root, self.difficult = root, difficult
        self.labels = {name: label for label, name in enumerate(categories.names) if label}
        self.images: dict[Path, dict[str, Path]] = {}
        """The images of each folder by their names."""
        self.rows = ImageRows(root, categories, "object", f"difficult {difficult}")

    def boxes(self, place: str, names: Iterable[tuple[Path, str]]) -> FileBoxes:
        """Images of folders by their names, with their objects."""
        for folder, name in names:
            path = folder / "Annotations" / f"{name}.xml"
            try:
                self._add(folder, name, path)
            except KDError as error:
                self.rows.faults.append(error.problems[0].message)
            except OSError as error:
                self.rows.faults.append(f"{path}: cannot be read: {error.strerror or error}")
            except ValueError as error:
                self.rows.faults.append(f"{path}: {error}")
        return self.rows.boxes(place, short=True)

    def _add(self, folder: Path, name: str, path: Path) -> None:
        if is_unsafe(name):
            raise ValueError(f"the name {name!r} leads out of the folder of the annotations")
        content = path.read_bytes()
        size, objects = parse(content, self.labels, difficult=self.difficult)
        if folder not in self.images:
            self.images[folder] = _images_in(folder / "JPEGImages")
        image = self.images[folder].get(name)
        if image is None:
            raise ValueError(f"there is no image {folder / 'JPEGImages' / name}.jpg")
        self.rows.update(content)
        self.rows.add(image.relative_to(self.root).as_posix(), size or image_size(image), path, objects)


def _images_in(folder: Path) -> dict[str, Path]:
    """The images in a folder by their names without the ending, a JPEG before others."""
    files = sorted(image_files(folder)[0], key=lambda path: path.suffix.lower() == ".jpg")
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in files}


def parse(
    content: bytes, labels: Mapping[str, int], *, difficult: bool
) -> tuple[tuple[int, int] | None, list[ImageObject]]:
    """The (height, width) that an XML file tells, None where it does not, and its objects; ValueError."""
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ValueError("declares a document type, which annotations do not need")
    try:
        root = ElementTree.fromstring(content)  # without entities there is nothing to expand
    except ElementTree.ParseError as error:
        raise ValueError(f"is not XML: {error}") from error
    if root.tag != "annotation":
        raise ValueError(f"is a <{root.tag[:40]}> and not an <annotation>")
    height, width = (root.findtext(f"size/{side}", "").strip() for side in ("height", "width"))
    try:
        size = (int(height or 0), int(width or 0))
    except ValueError:
        raise ValueError(f"has a size of {width} x {height}") from None
    objects = [_object(item, number, labels, difficult) for number, item in enumerate(root.findall("object"), 1)]
    return size if min(size) > 0 else None, objects


def _object(item: ElementTree.Element, number: int, labels: Mapping[str, int], difficult: bool) -> ImageObject:
    """One object; ValueError where it has no name or no box."""
    name = item.findtext("name", "").strip()
    if not name:
        raise ValueError(f"object {number} has no name")
    try:
        left, top, right, bottom = (float(item.findtext(f"bndbox/{key}", "")) for key in SIDES)
    except ValueError:
        raise ValueError(f"object {number} has no 'bndbox' of four numbers") from None
    mark = item.findtext("difficult", "").strip() or "0"
    if mark not in ("0", "1"):
        raise ValueError(f"object {number} has a 'difficult' of {mark}: it is 0 or 1")
    box, hard = (left - 1, top - 1, right, bottom), mark == "1"
    return ImageObject(number, name, labels.get(name, 0), box, crowd=hard, trained=difficult or not hard)


VOC = Categories.listed(VOC_CLASSES)

SOURCES("voc_detection")(
    BoxSource(
        "PASCAL VOC's detection, or images of your own in its layout: lists, XML files; to be downloaded by hand",
        read_voc,
        check=check_voc,
        categories=VOC,
    )
)
