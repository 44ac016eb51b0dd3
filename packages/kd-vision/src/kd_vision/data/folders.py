"""Images in folders, one folder for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from kd_core.data.fingerprint import FileContents
from kd_core.data.sources import SPLITS, Parts
from kd_core.errors import KDError
from kd_vision.data.labelled_subset import LabelledSubset
from kd_vision.data.sources import SOURCES, ImageSource


class ImageFiles(Dataset[tuple[Any, int]]):
    """Image files and their labels; an image is read as RGB when it is asked for."""

    def __init__(self, paths: list[Path], labels: list[int]) -> None:
        self.paths = paths
        self.targets = labels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        from PIL import Image

        try:
            with Image.open(self.paths[row]) as image:
                return image.convert("RGB"), self.targets[row]
        except Exception as error:  # damaged files make decoders raise nearly anything
            raise KDError(f"{self.paths[row]}: is not a readable image ({type(error).__name__}: {error})") from error


def read_folders(root: Path) -> Parts[LabelledSubset]:
    """``root/train/CLASS/*``, with ``root/val`` and ``root/test`` where they are there."""
    if not (root / "train").is_dir():
        raise KDError(
            f"{root}: contains no folder 'train'; data.root is the folder that holds train/CLASS and val/CLASS"
        )
    classes = tuple(sorted(folder.name for folder in (root / "train").iterdir() if folder.is_dir()))
    subsets = {name: folder_subset(root / name, classes) for name in SPLITS}
    if not subsets["train"]:
        raise KDError(f"{root / 'train'}: contains no images in folders of classes")
    places = {name: str(root / name) for name, subset in subsets.items() if subset is not None}
    return Parts(subsets["train"], subsets["val"] or None, subsets["test"] or None, classes, places)


def folder_subset(folder: Path, classes: tuple[str, ...]) -> LabelledSubset | None:
    """The images of ``folder/CLASS``, None where there is no such folder; KDError for a class not in ``classes``."""
    if not folder.is_dir():
        return None
    unknown = sorted({path.name for path in folder.iterdir() if path.is_dir()} - set(classes))
    if unknown:
        raise KDError(f"{folder}: {unknown[0]!r} is not a class of the training images")
    paths, labels = [], []
    for number, name in enumerate(classes):
        files = image_files(folder / name)
        paths += files
        labels += [number] * len(files)
    return files_subset(folder, paths, labels)


def files_subset(folder: Path, paths: list[Path], labels: list[int]) -> LabelledSubset:
    """A subset of image files, told apart by their names below ``folder`` and their contents."""
    target = torch.tensor(labels, dtype=torch.int64)
    return LabelledSubset(ImageFiles(paths, labels), target, torch.arange(len(paths)), FileContents(folder, paths))


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and below, in the order of their names."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS)


SOURCES("image_folder", "imagenet")(
    ImageSource(
        "images in folders: root/train/CLASS, root/val/CLASS, as of ImageNet",
        read_folders,
        size=224,
        channels=3,
        augment="resized_crop_flip",
    )
)
