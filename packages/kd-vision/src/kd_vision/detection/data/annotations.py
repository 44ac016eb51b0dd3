"""A file of annotations in COCO's format: what it says of each image, and in words all that is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd_core.data.images import image_size
from kd_core.data.packed import Packed
from kd_core.errors import KDError
from kd_vision.detection.data.categories import NOWHERE, Categories, name_fault
from kd_vision.detection.data.columns import UNNAMED, EntryColumns, integer_of
from kd_vision.detection.data.json_stream import Taken, decoded, read_mapping
from kd_vision.detection.data.shape_columns import ShapeList
from kd_vision.detection.data.sources import Faults
from kd_vision.detection.data.table import (
    NOISE,
    STRAY,
    FileBoxes,
    ImageFolder,
    Objects,
    is_unsafe,
    missing_from,
    overhang,
    starts_of,
)

FORM = "annotations in COCO's format are a mapping with the lists 'images', 'annotations' and 'categories'"


@dataclass
class ImageColumns:
    """The images of a file, and in words what is wrong with those that cannot be kept."""

    ids: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Height and width; (0, 0) where the file does not tell."""
    faults: list[str] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)
    """The ids of all images, those that cannot be kept included."""

    def add(self, place: int, entry: Any) -> None:
        """One image."""
        try:
            if not isinstance(entry, Mapping):
                raise ValueError(f"is not a mapping but {json.dumps(entry)[:60]}")
            number, file = integer_of(entry, "id"), entry.get("file_name")
            known = number in self.seen
            self.seen.add(number)
            if not isinstance(file, str):
                raise ValueError("has no 'file_name' that is a string")
            if is_unsafe(file):
                raise ValueError(f"has the file name {file!r}, which leads out of the folder of the images")
            if known:
                raise ValueError(f"has the id {number}, which another image has")
            told = {"height", "width"} <= entry.keys()
            size = (integer_of(entry, "height"), integer_of(entry, "width")) if told else (0, 0)
            if min(size) < 0 or max(size) >= 1 << 31:
                raise ValueError(f"has a size of {size[1]} x {size[0]} pixels")
        except ValueError as error:
            self.faults.append(f"image {place} of the list 'images' {error}")
        else:
            self.ids.append(number)
            self.files.append(file)
            self.sizes.append(size)


@dataclass(frozen=True)
class AnnotationFile:
    """What is read from a file: images and annotations as they stand there, and its categories.

    ``by_id`` are the names of the categories, ``keypoints`` and ``skeleton`` those of the categories that have any.
    """

    path: Path
    digest: str
    images: ImageColumns
    entries: EntryColumns
    by_id: Mapping[int, str]
    keypoints: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()


def read_file(path: Path, *, masks: bool, keypoints: bool) -> AnnotationFile:
    """The content of a file; KDError where it has another form. ``masks``: with shapes; ``keypoints``: with these."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise KDError(f"{path}: cannot be read: {error.strerror or error}") from error
    images, entries = ImageColumns(), EntryColumns(masks=masks, keypoints=keypoints)
    digest = hashlib.sha256(content).hexdigest()
    try:
        text = decoded(content)
        del content  # half a gigabyte of COCO
        rest = read_mapping(text, {"images": images.add, "annotations": entries.add})
    except (ValueError, RecursionError) as error:
        raise KDError(f"{path}: is not JSON: {error}") from error
    if rest is None or not all(isinstance(rest.get(key), Taken) for key in ("images", "annotations")):
        raise KDError(f"{path}: has other content: {FORM}")
    try:
        by_id, names, skeleton = _categories(rest.get("categories"))
    except ValueError as error:
        raise KDError(f"{path}: {error}") from error
    return AnnotationFile(path, digest, images, entries, by_id, names, skeleton)


def _categories(entries: Any) -> tuple[dict[int, str], tuple[str, ...], tuple[tuple[int, int], ...]]:
    """The names of categories by their numbers, and the keypoints that all have that have any; ValueError."""
    if not isinstance(entries, list):
        raise ValueError(f"has no list 'categories': {FORM}")
    by_id: dict[int, str] = {}
    with_keypoints: list[Mapping[str, Any]] = []
    for place, entry in enumerate(entries):
        label = f"category {place} of the list 'categories'"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            raise ValueError(f"{label} is not a mapping with an 'id' and a 'name'")
        try:
            number = integer_of(entry, "id")
        except ValueError as error:
            raise ValueError(f"{label} {error}") from error
        if number in by_id or entry["name"] in by_id.values():
            what = f"the id {number}" if number in by_id else f"the name {entry['name']!r}"
            raise ValueError(f"{label} has {what}, which another category has")
        if fault := name_fault(entry["name"]):
            raise ValueError(f"{label} {fault}")
        by_id[number] = entry["name"]
        with_keypoints += [entry] if entry.get("keypoints") else []
    if not with_keypoints:
        return by_id, (), ()
    if any(entry["keypoints"] != with_keypoints[0]["keypoints"] for entry in with_keypoints):
        raise ValueError("has categories with other keypoints than each other: they must have the same")
    names = _keypoint_names(with_keypoints[0]["keypoints"])
    return by_id, names, _skeleton(with_keypoints[0].get("skeleton") or [], len(names))


def _keypoint_names(names: Any) -> tuple[str, ...]:
    """The names of keypoints; ValueError where they are no different names."""
    if not isinstance(names, list) or not all(isinstance(name, str) or type(name) is int for name in names):
        raise ValueError(f"has 'keypoints' of a category that are not a list of names: {json.dumps(names)[:60]}")
    texts = tuple(map(str, names))
    for place, name in enumerate(texts):
        if name in texts[:place]:
            raise ValueError(f"has a category with the keypoint {name!r} twice")
        if fault := name_fault(name):
            raise ValueError(f"has a keypoint that {fault}")
    return texts


def _skeleton(pairs: Any, number: int) -> tuple[tuple[int, int], ...]:
    """Pairs of ``number`` keypoints, which a file counts from 1, counted from 0; ValueError for what is none."""
    try:
        skeleton = tuple((int(first) - 1, int(second) - 1) for first, second in pairs)
    except (TypeError, ValueError, OverflowError):
        raise ValueError("has a 'skeleton' that is not a list of pairs of numbers") from None
    if wrong := [pair for pair in skeleton if not all(0 <= end < number for end in pair)]:
        pair = [end + 1 for end in wrong[0]]
        raise ValueError(
            f"has a 'skeleton' with the pair {pair}: its ends count from 1, and there are {number} keypoints"
        )
    return skeleton


class _Report:
    """Which annotations are good, and in words what is wrong with the others."""

    def __init__(self, file: AnnotationFile) -> None:
        self.entries = file.entries.entries
        self.good = np.ones(len(self.entries), bool)
        self.faults = dict(file.entries.faults)

    def refuse(self, wrong: Any, reason: Callable[[int], str]) -> None:
        """Leave out annotations where ``wrong`` (M,) bool, for a ``reason``: a text that is made of the row of each."""
        for row in np.flatnonzero(wrong & self.good).tolist():
            number = int(self.entries["number"][row])
            place = int(self.entries["place"][row])
            name = f"annotation {number}" if number != UNNAMED else f"annotation {place} of the list 'annotations'"
            self.faults[place] = f"{name} {reason(row)}"
        self.good &= ~wrong

    def messages(self) -> list[str]:
        """What is wrong, in the order of the file."""
        return [self.faults[place] for place in sorted(self.faults)]


def boxes_of(file: AnnotationFile, folder: Path, categories: Categories, *, lenient: bool = False) -> FileBoxes:
    """The images below ``folder`` in the order of their numbers, with the annotations of ``categories``.

    ``lenient``: boxes that have no area or leave their image are no faults, as COCO's own files have some.
    """
    order = np.argsort(np.array(file.images.ids, np.int64), kind="stable")
    images, image_faults = _images(file, folder, order)
    report = _Report(file)
    rows = _check_rows(file, images, categories, report)
    _check_boxes(images, rows, report, lenient=lenient)
    shapes, keypoints = _check_rest(file, images, categories, rows, report, lenient=lenient)
    kept = np.flatnonzero(report.good & (rows >= 0))
    kept = kept[np.argsort(rows[kept], kind="stable")]
    entries = report.entries[kept]
    boxes = entries["box"].copy()
    boxes[:, 2:] += boxes[:, :2]
    crowds = entries["crowd"].astype(bool)
    objects = Objects(
        starts_of(rows[kept], len(images.files)),
        boxes,
        categories.labels_of(entries["category"]),
        entries["area"].copy(),
        crowds,
        ~crowds,
        entries["number"].copy(),
        np.ones(len(crowds), bool),
        None if shapes is None else shapes.take(kept),
        None if keypoints is None else keypoints[kept],
    )
    faults = Faults(str(file.path), [*file.images.faults, *image_faults, *report.messages()])
    how = f"{file.digest} {shapes is not None} {keypoints is not None} {categories}"
    return FileBoxes(images, objects, categories, faults, digest=how)


def _images(file: AnnotationFile, folder: Path, order: NDArray[np.int64]) -> tuple[ImageFolder, list[str]]:
    """The images that are there, and what is wrong with the others."""
    files, ids = file.images.files, np.array(file.images.ids, np.int64)
    sizes = np.array(file.images.sizes, np.int64).reshape(-1, 2)
    missing = missing_from(folder, files)
    faults = []
    for row in order.tolist():
        if missing[row]:
            faults.append(f"there is no file {folder / files[row]} of the image {ids[row]}")
        elif not sizes[row].all():
            try:
                sizes[row] = image_size(folder / files[row])
            except KDError as error:
                missing[row] = True
                faults.append(error.problems[0].message)
    kept = order[~missing[order]]
    return ImageFolder(folder, Packed([files[row] for row in kept.tolist()]), sizes[kept], ids[kept]), faults


def _check_rows(
    file: AnnotationFile, images: ImageFolder, categories: Categories, report: _Report
) -> NDArray[np.int64]:
    """The row of each annotation's image, -1 where that is left out; images and categories that there are not."""
    entries = report.entries
    places = np.searchsorted(images.ids, entries["image"]).clip(max=max(len(images.ids) - 1, 0))
    known = images.ids[places] == entries["image"] if len(images.ids) else np.zeros(len(entries), bool)
    rows = np.where(known, places, NOWHERE)
    if not known.all():
        listed = np.isin(entries["image"], np.array([*file.images.seen], np.int64))
        report.refuse(~listed, lambda row: f"is of the image {entries['image'][row]}, which the file does not list")
    report.refuse(entries["crowd"] > 1, lambda row: f"has an 'iscrowd' of {entries['crowd'][row]}: it is 0 or 1")
    unknown = categories.labels_of(entries["category"]) == 0
    report.refuse(unknown, lambda row: f"is of the category {entries['category'][row]}, which there is not")
    _, first = np.unique(entries["number"], return_index=True)
    twice = np.ones(len(entries), bool)
    twice[first] = False
    twice[entries["number"] == UNNAMED] = False
    report.refuse(twice, lambda row: "has an id that another annotation has")
    return rows


def _check_boxes(images: ImageFolder, rows: NDArray[np.int64], report: _Report, *, lenient: bool) -> None:
    """Boxes that are not finite, have no area or leave their image, and areas that are none."""
    entries = report.entries
    box, area = entries["box"], entries["area"]

    def text(row: int) -> str:
        return "[" + ", ".join(f"{value:g}" for value in box[row]) + "]"

    report.refuse(~np.isfinite(box).all(1), lambda row: f"has a 'bbox' that is not finite: {text(row)}")
    report.refuse((box[:, 2:] < 0).any(1), lambda row: f"has a 'bbox' of a negative width or height: {text(row)}")
    report.refuse(~(np.isfinite(area) & (area >= 0)), lambda row: f"has an 'area' of {area[row]:g}")
    if lenient:
        return
    report.refuse((box[:, 2:] == 0).any(1), lambda row: f"has a 'bbox' without an area: {text(row)}")
    sizes = images.sizes[rows] if len(images.sizes) else np.zeros((len(rows), 2), np.int64)
    with np.errstate(all="ignore"):
        beyond = overhang(np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1), sizes)

    def leaves(row: int) -> str:
        height, width = sizes[row]
        return f"has a 'bbox' that leaves its image of {width} x {height} by {beyond[row]:g} pixels: {text(row)}"

    report.refuse((beyond > STRAY + NOISE) & (rows >= 0), leaves)


def _check_rest(
    file: AnnotationFile,
    images: ImageFolder,
    categories: Categories,
    rows: NDArray[np.int64],
    report: _Report,
    *,
    lenient: bool,
) -> tuple[ShapeList | None, NDArray[np.float32] | None]:
    """Shapes and keypoints, where they are read."""
    shapes = keypoints = None
    if file.entries.shapes is not None:
        shapes = ShapeList.of(file.entries.shapes)
        sizes = images.sizes[rows] if len(images.sizes) else np.zeros((len(rows), 2), np.int64)
        there = np.flatnonzero(rows >= 0)
        wrong = {int(there[row]): reason for row, reason in shapes.take(there).faults(sizes[there])}
        marked = np.zeros(len(rows), bool)
        marked[list(wrong)] = True
        report.refuse(marked, wrong.__getitem__)
        if not lenient:
            report.refuse(shapes.empty, lambda row: "has a 'segmentation' with no polygon with an area and no pixel")
    if file.entries.points is not None:
        keypoints, other = file.entries.keypoints(len(categories.keypoints))
        number = len(categories.keypoints)
        report.refuse(other, lambda row: f"has another number of keypoints than {number}, with x, y and visibility")
        odd = ~np.isfinite(keypoints).all((1, 2)) | ~np.isin(keypoints[..., 2], (0, 1, 2)).all(1)
        report.refuse(odd, lambda row: "has keypoints that are not x, y and a visibility of 0, 1 or 2")
    return shapes, keypoints
