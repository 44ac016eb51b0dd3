"""Images and masks of one's own, in folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from kd_core.config.schema import StrictModel
from kd_core.data.sources import Parts
from kd_core.data.spec import NonNegativeInt
from kd_core.errors import KDError
from kd_seg.data.image_files import ClassTable, FilePairs, Pair, identity_values, names_in
from kd_seg.data.sources import SOURCES, MaskSource, PairSubset

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class Folder(StrictModel):
    """A split of one's own: folders of images and masks (a mask has its image's name), and a list of names."""

    images: str
    masks: str
    list: str | None = None


class Folders(StrictModel):
    """Splits of one's own, below ``data.root`` unless their paths are absolute."""

    train: Folder
    val: Folder | None = None
    test: Folder | None = None


ClassNames = Annotated[list[str], Field(min_length=2)]
"""Names of the classes, in the order of the values 0, 1, ... in masks."""
Void = NonNegativeInt | Annotated[list[NonNegativeInt], Field(max_length=1024)]
"""The values in masks that stand for no class."""


def read_folders(root: Path, *, folders: Folders, classes: ClassNames, void: Void = 255) -> Parts[PairSubset]:
    """The splits that ``folders`` names, below ``root``."""
    values = identity_values(len(classes), void)
    splits = {"train": folders.train, "val": folders.val, "test": folders.test}
    parts = {
        name: PairSubset(folder_pairs(root, folder, values)) for name, folder in splits.items() if folder is not None
    }
    places = {name: str(root / (folder.list or folder.images)) for name, folder in splits.items() if folder is not None}
    return Parts(parts["train"], parts.get("val"), parts.get("test"), tuple(classes), places)


def folder_pairs(root: Path, spec: Folder, values: ClassTable) -> FilePairs:
    """The images of a folder with the masks of their names; KDError for one without the other."""
    images, masks = (files_in(root / Path(path).expanduser()) for path in (spec.images, spec.masks))
    names = sorted(images) if spec.list is None else names_in(root / Path(spec.list).expanduser())
    for name in names:
        for kind, files, folder in (("image", images, spec.images), ("mask", masks, spec.masks)):
            if name not in files:
                other = (masks if kind == "image" else images).get(name, f"the list {spec.list}")
                raise KDError(f"{root / folder}: contains no {kind} {name}.*, as {other} asks for")
    if spec.list is None and (alone := sorted(set(masks) - set(images))):
        raise KDError(f"{masks[alone[0]]}: there is no image of that name in {root / spec.images}")
    return FilePairs([Pair(name, images[name], masks[name]) for name in names], values)


def files_in(folder: Path) -> dict[str, Path]:
    """The pictures in a folder and below, by their path below it without the ending; KDError for two of one name."""
    if not folder.is_dir():
        raise KDError(f"there is no folder {folder}")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in files:
                raise KDError(f"{path}: {files[name].name} has the same name, so the image is ambiguous")
            files[name] = path
    if not files:
        raise KDError(f"{folder}: contains no image")
    return files


SOURCES("folders")(
    MaskSource(
        "images and masks of your own, in folders: {train: {images: DIR, masks: DIR}, val:, test:}", read_folders
    )
)
