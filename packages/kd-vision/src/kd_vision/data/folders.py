"""Images in folders, one folder for each class."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from pydantic import Field
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

from kd_core.data.file_paths import FileNames, FilePaths
from kd_core.data.fingerprint import FileContents
from kd_core.data.images import image_names, is_hidden, passed_over, read_image
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
    classes = class_order([name for name, found in folders["train"].items() if len(found.names)])
    if not classes:
        raise KDError(f"{root / 'train'}: contains no images in folders of classes")
    subsets, notes = {}, [*numbers_note(classes), *_not_read(root, classes)]
    known = set(classes)
    unknown = [
        f"{root / split}: {name!r} is not a class of the training images"
        for split, content in folders.items()
        for name in sorted(name for name, found in content.items() if len(found.names) and name not in known)
    ]
    if unknown:
        raise KDError("\n".join(unknown))
    for split, content in folders.items():
        numbers = [number for number, name in enumerate(classes) if name in content]
        found = [content[classes[number]] for number in numbers]
        paths = FilePaths({part.folder: part.names for part in found})
        if len(paths):
            labels: NDArray[np.int64] = np.repeat(numbers, [len(part.names) for part in found])
            subsets[split] = files_subset(root / split, paths, labels, white)
        notes += _folder_notes(root / split, content)
    places = {split: str(root / split) for split in subsets}
    return Parts(subsets["train"], subsets.get("val"), subsets.get("test"), classes, places, notes=tuple(notes))


class _ClassFolder(NamedTuple):
    """The images of one class in a split, and what else lies there, counted by ending."""

    folder: Path
    names: FileNames
    others: dict[str, int]


def _class_folders(folder: Path) -> dict[str, _ClassFolder]:
    """What lies in each folder of a split, by its name, hidden folders left out."""
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))
    content = {}
    for path in subfolders:
        others: dict[str, int] = {}
        names = FileNames(image_names(path, others))
        content[unicodedata.normalize("NFC", path.name)] = _ClassFolder(path, names, others)
    return content


def _not_read(root: Path, classes: Sequence[str]) -> list[Note]:
    """Folders of classes beside ``train`` whose names are like those of a split, and are not."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not is_hidden(path.name))
    return [
        Note.warning(f"{root / name} is not read: the folders of a data set are train, val and test")
        for name in names
        if name not in SPLITS
        and name.lower().startswith(ALIKE)
        and any((root / name / part).is_dir() for part in classes)
    ]


def _folder_notes(folder: Path, content: dict[str, _ClassFolder]) -> list[Note]:
    """What was passed over in a split: folders without an image, and files that are no images of a class."""
    empty = [name for name, found in content.items() if not len(found.names)]
    outside = sum(1 for path in folder.iterdir() if not path.is_dir() and not is_hidden(path.name))
    others: dict[str, int] = {}
    for found in content.values():
        for ending, count in found.others.items():
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


def files_subset(folder: Path, paths: Sequence[Path], labels: ArrayLike, white: float | None = None) -> LabelledSubset:
    """A subset of image files, told apart by their names below ``folder`` and their contents."""
    target = torch.from_numpy(np.asarray(labels, np.int64))
    files = paths if isinstance(paths, FilePaths) else FilePaths.of(folder, paths)
    return LabelledSubset(
        ImageFiles(files, target, white), target, torch.arange(len(files)), FileContents(folder, files)
    )


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
    images, rows = subset.images, subset.index
    if isinstance(images, ImageFiles):
        positions: Sequence[int] = range(len(rows))
    elif isinstance(images, ConcatDataset):
        positions = _are_files(images)[rows.numpy()].nonzero()[0].tolist()
    else:
        return None

    def paths(position: int) -> tuple[Path, ...]:
        path = path_of(images, int(rows[position]))
        return () if path is None else (path,)

    return Readable(lambda position: images[int(rows[position])], paths, positions) if len(positions) else None


def _are_files(images: Any) -> NDArray[np.bool_]:
    """Of each row of a data set, (rows,), whether it is read from an image file."""
    if isinstance(images, ConcatDataset):
        return np.concatenate([_are_files(part) for part in images.datasets])
    return np.full(len(images), isinstance(images, ImageFiles))


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
