"""Images and masks of one's own, in folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kd_core.config.schema import StrictModel
from kd_core.data.images import image_files, passed_over
from kd_core.data.sources import Parts
from kd_core.data.spec import NonNegativeInt
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_seg.data.image_files import ClassTable, FilePairs, Pair, class_values, names_in
from kd_seg.data.sources import SOURCES, MaskSource, PairSubset


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
ClassValues = Annotated[list[Annotated[int, Field(ge=0, le=65535)]], Field(min_length=2)] | None
"""The value of each class in masks, in the order of ``classes``; 0, 1, ... by default."""
White = Annotated[float, Field(gt=0, allow_inf_nan=False)] | None
"""The value of white in images of 16 bits, of 32 bits and of floats."""


def check_values(*, classes: Sequence[str], void: Void = 255, values: Sequence[int] | None = None, **_: object) -> None:
    """KDError where classes and mask values do not agree: their numbers, one value twice, one of a class and void."""
    numbers = list(range(len(classes))) if values is None else list(values)
    if len(numbers) != len(classes):
        raise KDError(f"has {len(numbers)} values for {len(classes)} classes", path="values")
    if twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        raise KDError(f"gives the value {twice[0]} to two classes", path="values")
    voids = {void} if isinstance(void, int) else set(void)
    for number, name in zip(numbers, classes, strict=True):
        if number in voids:
            message = f"{number} is the value of the class {name!r}, and void"
            shifted = [value + 1 for value in numbers]
            hint = f"where {name!r} is {number + 1} in masks, write `values: {shifted}`" if values is None else None
            raise KDError(message, hint=hint, path="void")


def read_folders(
    root: Path,
    *,
    folders: Folders,
    classes: ClassNames,
    void: Void = 255,
    values: ClassValues = None,
    white: White = None,
) -> Parts[PairSubset]:
    """The splits that ``folders`` names, below ``root``."""
    table = class_values(range(len(classes)) if values is None else values, void)
    splits = {"train": folders.train, "val": folders.val, "test": folders.test}
    parts = {
        name: PairSubset(folder_pairs(root, folder, table, white))
        for name, folder in splits.items()
        if folder is not None
    }
    places = {name: str(root / (folder.list or folder.images)) for name, folder in splits.items() if folder is not None}
    below = [root / path for folder in splits.values() if folder is not None for path in (folder.images, folder.masks)]
    notes = [note for path in dict.fromkeys(below) for note in passed_over(image_files(path)[1], path)]
    return Parts(parts["train"], parts.get("val"), parts.get("test"), tuple(classes), places, notes=tuple(notes))


def folder_pairs(root: Path, spec: Folder, values: ClassTable, white: float | None) -> FilePairs:
    """The images of a folder with the masks of their names; KDError for one without the other."""
    images, masks = (files_in(root / user_path(path)) for path in (spec.images, spec.masks))
    names = sorted(images) if spec.list is None else names_in(root / user_path(spec.list))
    for name in names:
        for kind, files, folder in (("image", images, spec.images), ("mask", masks, spec.masks)):
            if name not in files:
                other = (masks if kind == "image" else images).get(name, f"the list {spec.list}")
                raise KDError(f"{root / folder}: contains no {kind} {name}.*, as {other} asks for")
    if spec.list is None and (alone := sorted(set(masks) - set(images))):
        raise KDError(f"{masks[alone[0]]}: there is no image of that name in {root / spec.images}")
    return FilePairs([Pair(name, images[name], masks[name]) for name in names], values, white)


def files_in(folder: Path) -> dict[str, Path]:
    """The pictures in a folder and below, by their path below it without the ending; KDError for two of one name."""
    if not folder.is_dir():
        raise KDError(f"there is no folder {folder}")
    files: dict[str, Path] = {}
    for path in image_files(folder)[0]:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in files:
            raise KDError(f"{path}: {files[name].name} has the same name, so the image is ambiguous")
        files[name] = path
    if not files:
        raise KDError(f"{folder}: contains no image")
    return files


SOURCES("folders")(
    MaskSource(
        "images and masks of your own, in folders: {train: {images: DIR, masks: DIR}, val:, test:}",
        read_folders,
        check=check_values,
    )
)
