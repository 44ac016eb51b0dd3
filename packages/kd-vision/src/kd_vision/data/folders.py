"""Images in folders, one folder for each class."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from kd_core.data.sources import SPLITS, Parts
from kd_core.errors import KDError
from kd_vision.data.pool import LabelledSubset
from kd_vision.data.sources import SOURCES, ImageSource


class Files(Dataset[tuple[Any, int]]):
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
    pools = {name: folder_pool(root / name, classes) for name in SPLITS}
    if not pools["train"]:
        raise KDError(f"{root / 'train'}: contains no images in folders of classes")
    places = {name: str(root / name) for name, pool in pools.items() if pool is not None}
    return Parts(pools["train"], pools["val"] or None, pools["test"] or None, classes, places)


def folder_pool(folder: Path, classes: tuple[str, ...]) -> LabelledSubset | None:
    """The images of ``folder/CLASS``, None where there is no such folder; KDError for a class not in ``classes``."""
    if not folder.is_dir():
        return None
    unknown = sorted({entry.name for entry in folder.iterdir() if entry.is_dir()} - set(classes))
    if unknown:
        raise KDError(f"{folder}: {unknown[0]!r} is not a class of the training images")
    paths, labels = [], []
    for number, name in enumerate(classes):
        files_of_class = image_files(folder / name)
        paths += files_of_class
        labels += [number] * len(files_of_class)
    return files_pool(folder, paths, labels)


def files_pool(folder: Path, paths: list[Path], labels: list[int]) -> LabelledSubset:
    """A pool of image files, told apart by their names below ``folder`` and their sizes in bytes."""
    state = hashlib.sha256()
    for path in paths:
        state.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\n".encode())
    target = torch.tensor(labels, dtype=torch.int64)
    return LabelledSubset(Files(paths, labels), target, torch.arange(len(paths)), state.hexdigest())


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
