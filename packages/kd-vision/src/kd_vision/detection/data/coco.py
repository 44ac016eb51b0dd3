"""COCO 2017 (Lin et al., ECCV 2014), and files of one's own in its format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_core.notes import Note
from kd_vision.detection.data.annotations import AnnotationFile, boxes_of, read_file
from kd_vision.detection.data.categories import COCO, COCO_BY_ID, PERSON, Categories
from kd_vision.detection.data.late import LateBoxes
from kd_vision.detection.data.sources import SOURCES, BoxSource, BoxSubset, overlap
from kd_vision.detection.data.table import FileBoxes

SITE = "https://cocodataset.org/#download"
NAMED = 5
"""Image files that a warning names."""


def read_coco2017(root: Path, masks: bool, keypoints: bool, skip: bool) -> Parts[BoxSubset]:
    """``train2017`` and ``val2017`` of a folder that holds ``annotations`` too; there is no download.

    Each is read when it is first asked for: scoring needs no training images.
    """
    categories = PERSON if keypoints else COCO
    kind = "person_keypoints" if keypoints else "instances"
    paths = {split: root / "annotations" / f"{kind}_{split}2017.json" for split in ("train", "val")}
    folders = {split: _folder(root, f"{split}2017") for split in paths}
    train, val = (
        BoxSubset(LateBoxes(partial(_read_split, path, folders[split], masks), categories, str(path), skip=skip))
        for split, path in paths.items()
    )
    return Parts(train, val, None, categories.names, {split: str(folder) for split, folder in folders.items()})


def _folder(root: Path, name: str) -> Path:
    """The folder of a split's images, below ``root`` or below its folder ``images``."""
    inner = root / "images" / name
    return inner if inner.is_dir() else root / name


def _read_split(path: Path, folder: Path, masks: bool) -> FileBoxes:
    """The images in ``folder`` with the annotations in ``path``; KDError where either is not there."""
    for needed, there in ((folder, folder.is_dir()), (path, path.is_file())):
        if not there:
            layout = "data.root is the folder that holds train2017, val2017 and annotations"
            raise KDError(f"there is no {needed}: {layout}", hint=f"they are at {SITE}")
    state = path.stat()
    return _read_as_it_is(path, folder, masks, state.st_mtime_ns, state.st_size, folder.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read_as_it_is(path: Path, folder: Path, masks: bool, *_changed: int) -> FileBoxes:
    """The same, kept: a run reads its data twice, to check the config and to train, and COCO takes 15 s each time."""
    keypoints = path.name.startswith("person_keypoints")
    file = read_file(path, masks=masks, keypoints=keypoints)
    _check_is_coco(file)
    return boxes_of(file, folder, PERSON if keypoints else COCO, lenient=True)


def _check_is_coco(file: AnnotationFile) -> None:
    """KDError where the categories or the keypoints of a file are not COCO's."""
    hint = "annotations of your own classes are read as `coco_json`"
    for number, name in file.by_id.items():
        if COCO_BY_ID.get(number) != name:
            coco = repr(COCO_BY_ID[number]) if number in COCO_BY_ID else "none"
            raise KDError(f"{file.path}: has the category {number} {name!r}, which in COCO is {coco}", hint=hint)
    if file.entries.points is not None and file.keypoints != PERSON.keypoints:
        raise KDError(f"{file.path}: has categories without COCO's {len(PERSON.keypoints)} keypoints", hint=hint)


def read_coco_json(
    root: Path,
    masks: bool,
    keypoints: bool,
    *,
    annotations: str,
    images: str | None = None,
    val_annotations: str | None = None,
    val_images: str | None = None,
    test_annotations: str | None = None,
    test_images: str | None = None,
) -> Parts[BoxSubset]:
    """Files below ``root`` unless their paths are absolute.

    The images of a split lie in its own folder, by default that of the training images, by default that of the file.
    """
    given = {
        "train": (annotations, images),
        "val": (val_annotations, val_images or images),
        "test": (test_annotations, test_images or images),
    }
    files = {
        split: (read_file(root / user_path(name), masks=masks, keypoints=keypoints), folder)
        for split, (name, folder) in given.items()
        if name is not None
    }
    categories = _categories(files["train"][0], keypoints=keypoints)
    parts, places, notes, seen = {}, {}, list[Note](), dict[Path, str]()
    for split, (file, folder_name) in files.items():
        folder = file.path.parent if folder_name is None else root / user_path(folder_name)
        if not folder.is_dir():
            raise KDError(f"there is no folder {folder}", path=f"{'' if split == 'train' else f'{split}_'}images")
        _check_same(file, files["train"][0])
        boxes = boxes_of(file, folder, categories)
        parts[split], places[split] = BoxSubset(boxes), str(file.path)
        notes += _several_ids(split, boxes)
        notes += overlap(split, [folder / name for name in dict.fromkeys(boxes.images.files)], seen)
    return Parts(parts["train"], parts.get("val"), parts.get("test"), categories.names, places, notes=tuple(notes))


def _several_ids(split: str, boxes: FileBoxes) -> list[Note]:
    """A warning of image files that a split has under several ids, which then count as often."""
    counts = Counter(boxes.images.files)
    names = [name for name, count in counts.items() if count > 1]
    if not names:
        return []
    is_one = len(names) == 1
    text = f"{len(names):,} image file{' has' if is_one else 's have'} several ids in the split {split}"
    return [Note.warning(f"{text}: {', '.join(names[:NAMED])}{', ...' if len(names) > NAMED else ''}")]


def _categories(file: AnnotationFile, *, keypoints: bool) -> Categories:
    """The categories of a file, COCO's where they are these; KDError where there are none, or no keypoints."""
    if not file.by_id:
        raise KDError(f"{file.path}: has no category")
    if not keypoints:
        return COCO if file.by_id == COCO_BY_ID else Categories.of(file.by_id)
    if not file.keypoints:
        raise KDError(f"{file.path}: no category has 'keypoints'", path="keypoints")
    named = Categories.of(file.by_id)
    return Categories(named.names, named.ids, named.ignored, file.keypoints, file.skeleton)


def _check_same(file: AnnotationFile, train: AnnotationFile) -> None:
    """KDError where a split has a category, or keypoints, that the training file has not."""
    for number, name in file.by_id.items():
        if train.by_id.get(number) != name:
            there = f"there is {train.by_id[number]!r}" if number in train.by_id else "does not have"
            message = f"{file.path}: has the category {number} {name!r}, which {train.path} {there}"
            raise KDError(message.replace("which", "where in", 1) if number in train.by_id else message)
    if file.entries.points is not None and file.keypoints and file.keypoints != train.keypoints:
        raise KDError(f"{file.path}: has other keypoints than {train.path}")


def check_files(**options: str | None) -> None:
    """KDError where images of a split are given without its annotations."""
    given: Mapping[str, str | None] = options
    for split in ("val", "test"):
        if given.get(f"{split}_images") is not None and given.get(f"{split}_annotations") is None:
            raise KDError(f"needs {split}_annotations", path=f"{split}_images")


SOURCES("coco2017")(
    BoxSource(
        "COCO 2017: 118,287 + 5,000 images, 80 classes, masks, keypoints of persons; to be downloaded by hand",
        read_coco2017,
        splits=("train", "val"),
        categories=COCO,
        keypoint_categories=PERSON,
    )
)
SOURCES("coco_json")(
    BoxSource(
        "images of your own with annotations in COCO's format: {annotations: FILE, images: DIR, val_annotations:}",
        read_coco_json,
        check=check_files,
    )
)
