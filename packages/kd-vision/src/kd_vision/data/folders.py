"""Images in folders, one folder for each class."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch.utils.data import Dataset

from kd_core.data.fingerprint import FileContents
from kd_core.data.images import image_files, is_hidden, passed_over, read_image
from kd_core.data.sources import SPLITS, Parts
from kd_core.errors import KDError
from kd_vision.data.labelled_subset import LabelledSubset
from kd_vision.data.sources import SOURCES, ImageSource

White = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
"""The value of white in images of 16 bits, of 32 bits and of floats."""


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files and their labels; an image is read, upright and in RGB, when it is asked for."""

    def __init__(self, paths: list[Path], labels: list[int], white: float | None = None) -> None:
        self.paths = paths
        self.targets = labels
        self.white = white

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return read_image(self.paths[row], white=self.white), self.targets[row]


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
    subsets, notes = {}, numbers_note(classes)
    for split, content in folders.items():
        unknown = sorted(name for name, (files, _) in content.items() if files and name not in classes)
        if unknown:
            raise KDError(f"{root / split}: {unknown[0]!r} is not a class of the training images")
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


def _folder_notes(folder: Path, content: dict[str, tuple[list[Path], dict[str, int]]]) -> list[str]:
    """What was passed over in a split: folders without an image, and files that are no images of a class."""
    empty = [name for name, (files, _) in content.items() if not files]
    outside = sum(1 for path in folder.iterdir() if not path.is_dir() and not is_hidden(path))
    others: dict[str, int] = {}
    for _, endings in content.values():
        for ending, count in endings.items():
            others[ending] = others.get(ending, 0) + count
    notes = [f"warning: {folder / name} holds no image and is not a class" for name in empty]
    files = "1 file in" if outside == 1 else f"{outside:,} files in"
    lie = "lies" if outside == 1 else "lie"
    notes += [f"warning: {files} {folder} {lie} in no folder of a class"] if outside else []
    return notes + passed_over(others, folder)


def class_order(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes in the order of their numbers: as text, or by value where each is a whole number."""
    if names and all(re.fullmatch("[0-9]+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def numbers_note(classes: Sequence[str]) -> list[str]:
    """A line where :func:`class_order` is another one than that of torchvision's ImageFolder."""
    if list(classes) == sorted(classes):
        return []
    text = f"class folders are numbers, taken by value: class 0 is {classes[0]!r}, 1 is {classes[1]!r}, 2 is"
    return [f"{text} {classes[2]!r}, ...; torchvision's ImageFolder sorts them as text"]


def files_subset(folder: Path, paths: list[Path], labels: list[int], white: float | None = None) -> LabelledSubset:
    """A subset of image files, told apart by their names below ``folder`` and their contents."""
    target = torch.tensor(labels, dtype=torch.int64)
    positions = torch.arange(len(paths))
    return LabelledSubset(ImageFiles(paths, labels, white), target, positions, FileContents(folder, paths))


SOURCES("image_folder", "imagenet")(
    ImageSource(
        "images in folders: root/train/CLASS, root/val/CLASS, as of ImageNet",
        read_folders,
        size=224,
        channels=3,
        augment="resized_crop_flip",
    )
)
