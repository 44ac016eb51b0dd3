"""Images in folders, one folder for each class."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from kd_core.data.fingerprint import FileContents
from kd_core.data.images import image_files, is_hidden, passed_over, read_image
from kd_core.data.packed import Packed
from kd_core.data.screening import Readable, skipped
from kd_core.data.sources import SPLITS, Parts
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_vision.data.labelled_subset import LabelledSubset
from kd_vision.data.sources import SOURCES, ImageSource

White = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
"""The value of white in images of 16 bits, of 32 bits and of floats."""


ALIKE = ("val", "dev", "eval", "test")
"""How the names of folders begin that are probably meant as splits."""


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files and their labels; an image is read, upright and in RGB, when it is asked for."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, white: float | None = None) -> None:
        self.paths = paths
        self.targets = labels
        self.white = white

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return read_image(self.paths[row], white=self.white), int(self.targets[row])

    def encoded(self, row: int) -> bytes:
        """The bytes of a file."""
        return self.paths[row].read_bytes()


def read_folders(root: Path, *, white: White = None) -> Parts[LabelledSubset]:
    """``root/train/CLASS/*``, with ``root/val`` and ``root/test`` where they are there.

    Classes are the folders in ``root/train`` that hold an image, in the order of :func:`class_order`.
    """
    if not (root / "train").is_dir():
        raise KDError(
            f"{root}: contains no folder 'train'; data.root is the folder that holds train/CLASS and val/CLASS"
        )
    folders = {name: _class_folders(root / name) for name in SPLITS if (root / name).is_dir()}
    classes = class_order([name for name, (files, _) in folders["train"].items() if files])
    if not classes:
        raise KDError(f"{root / 'train'}: contains no images in folders of classes")
    subsets, notes = {}, [*numbers_note(classes), *_not_read(root, classes)]
    unknown = [
        f"{root / split}: {name!r} is not a class of the training images"
        for split, content in folders.items()
        for name in sorted(name for name, (files, _) in content.items() if files and name not in classes)
    ]
    if unknown:
        raise KDError("\n".join(unknown))
    for split, content in folders.items():
        files = [(path, number) for number, name in enumerate(classes) for path in content.get(name, ([], {}))[0]]
        if files:
            paths, labels = zip(*files, strict=True)
            subsets[split] = files_subset(root / split, list(paths), list(labels), white)
        notes += _folder_notes(root / split, content)
    places = {split: str(root / split) for split in subsets}
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes, places, notes=tuple(notes))


def _class_folders(folder: Path) -> dict[str, tuple[list[Path], dict[str, int]]]:
    """What :func:`image_files` finds in each folder of a split, by its name, hidden folders left out."""
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path))
    return {unicodedata.normalize("NFC", path.name): image_files(path) for path in subfolders}


def _not_read(root: Path, classes: Sequence[str]) -> list[Note]:
    """Folders of classes beside ``train`` whose names are like those of a split, and are not."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path))
    return [
        Note.warning(f"{root / name} is not read: the folders of a data set are train, val and test")
        for name in names
        if name not in SPLITS
        and name.lower().startswith(ALIKE)
        and any((root / name / part).is_dir() for part in classes)
    ]


def _folder_notes(folder: Path, content: dict[str, tuple[list[Path], dict[str, int]]]) -> list[Note]:
    """What was passed over in a split: folders without an image, and files that are no images of a class."""
    empty = [name for name, (files, _) in content.items() if not files]
    outside = sum(1 for path in folder.iterdir() if not path.is_dir() and not is_hidden(path))
    others: dict[str, int] = {}
    for _, endings in content.values():
        for ending, count in endings.items():
            others[ending] = others.get(ending, 0) + count
    notes = [Note.warning(f"{folder / name} holds no image and is not a class") for name in empty]
    files = "1 file in" if outside == 1 else f"{outside:,} files in"
    lie = "lies" if outside == 1 else "lie"
    notes += [Note.warning(f"{files} {folder} {lie} in no folder of a class")] if outside else []
    return notes + passed_over(others, folder)


def class_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: as text, or by value where each is a whole number."""
    if names and all(re.fullmatch("[0-9]+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def numbers_note(classes: Sequence[str]) -> list[Note]:
    """A note where :func:`class_order` is another one than that of torchvision's ImageFolder."""
    if list(classes) == sorted(classes):
        return []
    text = f"class folders are numbers, taken by value: class 0 is {classes[0]!r}, 1 is {classes[1]!r}, 2 is"
    return [Note(f"{text} {classes[2]!r}, ...; torchvision's ImageFolder sorts them as text")]


def files_subset(folder: Path, paths: list[Path], labels: list[int], white: float | None = None) -> LabelledSubset:
    """A subset of image files, told apart by their names below ``folder`` and their contents."""
    target = torch.tensor(labels, dtype=torch.int64)
    positions = torch.arange(len(paths))
    packed = Packed(paths)
    return LabelledSubset(ImageFiles(packed, target, white), target, positions, FileContents(folder, packed))


def path_of(images: Any, row: int) -> Path | None:
    """The file that a row of a data set's images is read from, None where it is not read from an image file."""
    if isinstance(images, ImageFiles):
        return images.paths[row]
    if isinstance(images, ConcatDataset):
        number = bisect_right(images.cumulative_sizes, row)
        before = images.cumulative_sizes[number - 1] if number else 0
        return path_of(images.datasets[number], row - before)
    return None


def readable(subset: LabelledSubset) -> Readable | None:
    """The images of a subset that are read from files, None where there are none."""
    if not isinstance(subset.images, (ImageFiles, ConcatDataset)):
        return None
    paths = {position: path_of(subset.images, row) for position, row in enumerate(subset.index.tolist())}
    files = {position: (path,) for position, path in paths.items() if path is not None}
    images, rows = subset.images, subset.index
    return Readable(lambda position: images[int(rows[position])], files.__getitem__, list(files)) if files else None


def without_unreadable(subset: LabelledSubset) -> tuple[LabelledSubset, list[Note]]:
    """A subset of image files without those that cannot be read, and a warning that names them where there are any."""
    files, images = readable(subset), subset.images
    if files is None or not isinstance(images, ImageFiles) or not isinstance(subset.fingerprint, FileContents):
        return subset, []
    errors = files.errors(whole=True)
    if not errors:
        return subset, []
    kept = [row for position, row in enumerate(subset.index.tolist()) if position not in errors]
    paths, labels = [images.paths[row] for row in kept], [int(images.targets[row]) for row in kept]
    whole = files_subset(subset.fingerprint.root, paths, labels, images.white)
    read = torch.tensor([position for position in range(len(subset)) if position not in errors])
    weights = None if subset.weights is None else subset.weights[read]
    return replace(whole, weights=weights), skipped(errors.values(), len(subset))


def skip_unreadable(parts: Parts[LabelledSubset]) -> Parts[LabelledSubset]:
    """A data set as its authors split it, without the files that cannot be read."""
    results = {name: without_unreadable(subset) for name, subset in parts.items().items()}
    subsets = {name: subset or None for name, (subset, _) in results.items()}
    return parts.replaced(subsets, [*parts.notes, *(note for _, notes in results.values() for note in notes)])


SOURCES("image_folder", "imagenet")(
    ImageSource(
        "images in folders: root/train/CLASS, root/val/CLASS, as of ImageNet",
        read_folders,
        size=224,
        channels=3,
        augment="resized_crop_flip",
    )
)
