"""The layout of YOLO's trainers: a text file for each image, and a ``data.yaml`` that names folders and classes.

A line is a class and a box, ``class cx cy w h``, or a class and a polygon, ``class x1 y1 x2 y2 x3 y3 ...``, all as
fractions of the image's width and height.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from kd_core.data.images import image_files, image_size, passed_over
from kd_core.data.shapes import POINTS, doubled_area
from kd_core.data.sources import SPLITS, Parts
from kd_core.data.workers import available_cores
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_core.notes import Note
from kd_vision.detection.data.categories import Categories, check_classes, class_names_fault
from kd_vision.detection.data.rows import ImageObject, ImageRows
from kd_vision.detection.data.sources import SOURCES, BoxSource, BoxSubset, overlap
from kd_vision.detection.data.table import Box, FileBoxes, is_unsafe

BOX = 5
"""Numbers of a line that is a box: the class and four."""
NO_AREA = 1e-6
"""Square pixels of a polygon that come from the rounding of its points alone."""
LARGEST = 1 << 20
"""Bytes of a ``data.yaml`` at most."""
FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""What the folders of a split are called where there is no ``data.yaml``."""
ClassNames = Annotated[list[str], Field(min_length=1)]


class LabelReader:
    """Reads the lines of label files: with ``masks`` polygons, with ``pose`` so many numbers of keypoints."""

    def __init__(self, folder: Path, categories: Categories, *, masks: bool, pose: int = 0) -> None:
        self.categories, self.masks, self.pose = categories, masks, pose
        self.rows = ImageRows(folder, categories, "line", f"pose {pose}")
        self.missing: list[Path] = []
        """Label files that there are not."""

    def boxes(self, place: str, files: Sequence[Path]) -> FileBoxes:
        """Image files with the objects of their label files; KDError where no image has any."""
        with ThreadPoolExecutor(available_cores()) as pool:
            for path, size in zip(files, pool.map(_size_of, files), strict=True):
                if isinstance(size, KDError):
                    self.rows.faults.append(size.problems[0].message)
                else:
                    self._add(path, size)
        if files and len(self.missing) == len(files):
            raise KDError(f"{place}: there is no {self.missing[0]}, and no image has a label file")
        return self.rows.boxes(place, masks=self.masks)

    def _add(self, path: Path, size: tuple[int, int]) -> None:
        labels = label_file(path)
        try:
            content = labels.read_bytes()
            lines = content.decode("utf-8-sig").splitlines()
        except FileNotFoundError:
            self.missing.append(labels)
            content, lines = b"", []
        except (OSError, UnicodeDecodeError) as error:
            self.rows.faults.append(f"{labels}: cannot be read: {getattr(error, 'strerror', None) or error}")
            return
        objects, seen = [], set()
        for number, line in enumerate(lines, 1):
            if not (words := line.split()):
                continue
            try:
                if (key := tuple(words)) in seen:
                    raise ValueError("is the same as one above")
                seen.add(key)
                objects.append(self._object(number, words, size))
            except ValueError as error:
                self.rows.faults.append(f"{labels}: line {number} {error}")
        self.rows.update(content)
        self.rows.add(path.relative_to(self.rows.folder).as_posix(), size, labels, objects)

    def _object(self, number: int, words: Sequence[str], size: tuple[int, int]) -> ImageObject:
        """The object of a line; ValueError that says what is wrong with it."""
        try:
            kind, *values = map(float, words)
        except ValueError:
            raise ValueError("has something that is not a number") from None
        if not all(map(math.isfinite, (kind, *values))):
            raise ValueError("has a number that is not finite")
        label = int(kind) + 1 if kind == int(kind) and 0 <= kind < len(self.categories.names) - 1 else 0
        values = values[: BOX - 1] if self.pose and len(values) == BOX - 1 + self.pose else values
        height, width = size
        if len(values) == BOX - 1:
            if self.masks:
                raise ValueError("is a box, and masks need polygons")
            across, down, wide, high = values
            box = ((across - wide / 2) * width, (down - high / 2) * height)
            return ImageObject(number, words[0], label, (*box, box[0] + wide * width, box[1] + high * height))
        if self.pose or len(values) < 2 * POINTS or len(values) % 2:
            form = f"{BOX + self.pose}" if self.pose else "the 5 of a box, or the class and x and y of each point"
            raise ValueError(f"has {len(words)} numbers, and not {form}")
        polygon = np.array(values) * ((width, height) * (len(values) // 2))
        x, y = polygon[::2], polygon[1::2]
        box_of_points: Box = (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
        area = abs(doubled_area(polygon)) / 2
        if area < NO_AREA:
            raise ValueError("has a polygon without an area")
        return ImageObject(number, words[0], label, box_of_points, area, shape=[polygon] if self.masks else None)


def _size_of(path: Path) -> tuple[int, int] | KDError:
    """(height, width) of an image, or what is wrong with its file."""
    try:
        return image_size(path)
    except KDError as error:
        return error


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last folder ``images`` of its path is ``labels``, the ending ``.txt``."""
    parts = list(image.parts)
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def read_yolo(root: Path, masks: bool, *, classes: ClassNames | None = None) -> Parts[BoxSubset]:
    """``root`` is a ``data.yaml``, the folder of one, or with ``classes`` a folder of ``images`` and ``labels``."""
    path = root if root.is_file() else _yaml_in(root)
    if path is None and classes is None:
        hint = "without one, `classes` names the classes, and root holds images/train and labels/train"
        raise KDError(f"{root}: contains no data.yaml", hint=hint, path="root")
    if path is None:
        folders, names, pose = _folders_in(root), classes or [], 0
    else:
        folders, names, pose = read_yaml(path)
    categories = Categories.listed(names if classes is None else classes, first=0)
    parts, places, notes = {}, {}, []
    seen: dict[Path, str] = {}
    for split, several in folders.items():
        files, others = _images(several)
        notes += [*others, *overlap(split, files, seen)]
        base = Path(*_common(files)) if files else several[0]
        reader = LabelReader(base, categories, masks=masks, pose=pose)
        places[split] = ", ".join(map(str, several))
        parts[split] = BoxSubset(reader.boxes(places[split], files))
        notes += _missing(reader.missing, places[split])
    if "train" not in parts:
        raise KDError(f"{path or root}: there are no training images", path="root")
    return Parts(parts["train"], parts.get("val"), parts.get("test"), categories.names, places, notes=tuple(notes))


def _common(files: Sequence[Path]) -> Sequence[str]:
    """The parts of the folder that all files are below."""
    first, last = min(file.parent.parts for file in files), max(file.parent.parts for file in files)
    same = [one == other for one, other in zip(first, last, strict=False)]
    return first[: same.index(False) if False in same else len(same)]


def _missing(files: Sequence[Path], place: str) -> list[Note]:
    """A line on images without a label file, which have no object; none where there are none."""
    if not files:
        return []
    count = "1 image has" if len(files) == 1 else f"{len(files):,} images have"
    return [Note(f"{place}: {count} no label file, and no object ({files[0].name}{', ...' if len(files) > 1 else ''})")]


def _yaml_in(root: Path) -> Path | None:
    """The ``data.yaml`` in a folder, or the one other file of that kind; KDError where there is no such folder."""
    if not root.is_dir():
        raise KDError(f"there is no folder or file {root}", path="root")
    files = sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    named = [path for path in files if path.stem in ("data", "dataset")]
    chosen = named or (files if len(files) == 1 else [])
    return chosen[0] if chosen else None


def _folders_in(root: Path) -> dict[str, list[Path]]:
    """The folders of images of each split: images/train, or train/images, or one folder ``images`` to train on."""
    folders: dict[str, list[Path]] = {}
    for split, names in FOLDERS.items():
        candidates = [path for name in names for path in (root / "images" / name, root / name / "images")]
        there = [path for path in candidates if path.is_dir()]
        folders |= {split: there[:1]} if there else {}
    if not folders and (root / "images").is_dir():
        return {"train": [root / "images"]}
    return folders


class _Loader(yaml.SafeLoader):
    """YAML in which no mapping has a key twice: of a second one nothing would be said."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping; YAMLError for a key that it has twice."""
        seen = set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in seen:
                message = f"the key {key.value!r} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> tuple[dict[str, list[Path]], list[str], int]:
    """The folders or lists of each split, the names of the classes, and how many numbers of keypoints a line has.

    KDError where the file has another form. Nothing that it says is run or downloaded.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise KDError(f"{path}: is larger than a file that names folders and classes")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise KDError(f"{path}: is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        raise KDError(f"{path}: is not a mapping with 'train', 'val' and 'names'")
    base = path.parent / user_path(_text(path, content, "path")) if content.get("path") else path.parent
    base = base if base.is_dir() else path.parent
    folders: dict[str, list[Path]] = {}
    for split in SPLITS:
        if content.get(split):
            given = content[split] if isinstance(content[split], list) else [content[split]]
            if not all(isinstance(entry, str) for entry in given):
                raise KDError(f"{path}: {split} is neither a folder nor a list of folders")
            folders[split] = [_place(path, base, entry) for entry in given]
    return folders, _names(path, content), _pose(path, content)


def _text(path: Path, content: Mapping[str, Any], key: str) -> str:
    """A string of the file."""
    if not isinstance(content[key], str):
        raise KDError(f"{path}: {key} is not a string")
    return str(content[key])


def _place(path: Path, base: Path, entry: str) -> Path:
    """A folder or list that a file names, below ``base``; some exports write ``../`` in front without need."""
    places = [base / user_path(entry), *([base / entry.removeprefix("../")] if entry.startswith("../") else [])]
    for place in places:
        if place.exists():
            return place
    raise KDError(f"{path}: there is no {places[-1]}, which it names")


def _names(path: Path, content: Mapping[str, Any]) -> list[str]:
    """The names of the classes in the order of their numbers."""
    names = content.get("names")
    if isinstance(names, Mapping):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise KDError(f"{path}: the numbers of 'names' are not 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise KDError(f"{path}: has no 'names' of classes")
    if wrong := [name for name in names if not isinstance(name, str) and type(name) is not int]:
        raise KDError(f"{path}: 'names' has {wrong[0]!r}, which is not a string", hint="write it in quotes")
    texts = [str(name) for name in names]
    if fault := class_names_fault(texts):
        raise KDError(f"{path}: 'names' {fault}")
    if "nc" in content and content["nc"] != len(texts):
        raise KDError(f"{path}: nc is {content['nc']}, and there are {len(texts)} names")
    return texts


def _pose(path: Path, content: Mapping[str, Any]) -> int:
    """How many numbers of keypoints follow a box, which are not read."""
    shape = content.get("kpt_shape")
    if shape is None:
        return 0
    if not isinstance(shape, list) or not all(isinstance(value, int) and value > 0 for value in shape):
        raise KDError(f"{path}: kpt_shape is not [number, 2 or 3]")
    return math.prod(shape)


def _images(places: Iterable[Path]) -> tuple[list[Path], list[Note]]:
    """The image files of folders and of lists, each once and sorted, and what was passed over."""
    files: dict[Path, None] = {}
    notes: list[Note] = []
    for place in places:
        if place.is_dir():
            found, others = image_files(place)
            notes += passed_over({ending: count for ending, count in others.items() if ending != ".txt"}, place)
        else:
            found = _listed(place)
        files |= dict.fromkeys(found)
    if not files:
        raise KDError(f"{', '.join(map(str, places))}: contains no image")
    return sorted(files), notes


def _listed(path: Path) -> list[Path]:
    """The images that a text file names, below its folder; KDError for one that leads out of it."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KDError(
            f"{path}: is not a readable list of images ({getattr(error, 'strerror', None) or error})"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if unsafe := [name for name in names if is_unsafe(name)]:
        raise KDError(f"{path}: {unsafe[0]!r} leads out of the folder of the list")
    return [path.parent / name for name in names]


SOURCES("yolo")(
    BoxSource(
        "images of your own in the layout of YOLO's trainers: a data.yaml, images/ and labels/ with a file an image",
        read_yolo,
        check=check_classes,
    )
)
