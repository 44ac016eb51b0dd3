"""Images and masks of one's own, in folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kd_core.errors import KDError
from kd_seg.data.image_files import FilePairs, Pair, Values, names_in, plain
from kd_seg.data.sources import Parts

if TYPE_CHECKING:
    from kd_seg.data.spec import DataSpec, Folder

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


def read_folders(data: DataSpec) -> Parts:
    """The splits that ``data.folders`` names, below ``data.root``."""
    assert data.folders is not None
    assert data.classes is not None
    root, values = Path(data.root).expanduser(), plain(len(data.classes), data.void)
    train, val, test = (
        None if each is None else folder_pairs(root, each, values)
        for each in (data.folders.train, data.folders.val, data.folders.test)
    )
    assert train is not None
    return Parts(train, val, test, tuple(data.classes))


def folder_pairs(root: Path, spec: Folder, values: Values) -> FilePairs:
    """The images of a folder with the masks of their names; KDError for one without the other."""
    images, masks = (files_in(root / Path(each).expanduser()) for each in (spec.images, spec.masks))
    names = sorted(images) if spec.list is None else names_in(root / Path(spec.list).expanduser())
    for name in names:
        for what, found, folder in (("image", images, spec.images), ("mask", masks, spec.masks)):
            if name not in found:
                other = (masks if what == "image" else images).get(name, f"the list {spec.list}")
                raise KDError(f"{root / folder}: contains no {what} {name}.*, as {other} asks for")
    if spec.list is None and (alone := sorted(set(masks) - set(images))):
        raise KDError(f"{masks[alone[0]]}: there is no image of that name in {root / spec.images}")
    return FilePairs([Pair(name, images[name], masks[name]) for name in names], values)


def files_in(folder: Path) -> dict[str, Path]:
    """The pictures in a folder and below, by their path below it without the ending; KDError for two of one name."""
    if not folder.is_dir():
        raise KDError(f"there is no folder {folder}")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGES and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise KDError(f"{path}: {found[name].name} has the same name, so the image is ambiguous")
            found[name] = path
    if not found:
        raise KDError(f"{folder}: contains no image")
    return found
