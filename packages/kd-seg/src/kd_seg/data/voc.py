"""PASCAL VOC 2012 (Everingham et al.), with the masks of SBD (Hariharan et al., ICCV 2011) where they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kd_core.data.sources import Parts
from kd_core.download import CHUNK, discard, fetch, unpack
from kd_core.errors import KDError
from kd_seg.data.image_files import FilePairs, Pair, identity_values, names_in
from kd_seg.data.sources import SOURCES, VOC_CLASSES, MaskSource, PairSubset

URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
MD5 = "6cd6e144f989b92b3379bac3b3de84fd"
LISTS = Path("ImageSets") / "Segmentation"
PLACES = ("", "VOC2012", "VOCdevkit/VOC2012", "TrainVal/VOCdevkit/VOC2012")
"""Folders below ``data.root`` in which VOC 2012 is looked for."""
VOC = identity_values(len(VOC_CLASSES), 255)


def read_voc(root: Path, download: bool, *, sbd: bool = False) -> Parts[PairSubset]:
    """The official lists ``train`` and ``val``; with ``sbd`` the list ``trainaug`` and ``SegmentationClassAug``."""
    folder = find_folder(root, download)
    train, val = (folder / LISTS / f"{name}.txt" for name in ("trainaug" if sbd else "train", "val"))
    if sbd and not (train.is_file() and (folder / "SegmentationClassAug").is_dir()):
        hint = "the list of 10,582 names and the masks, palette PNGs, are made from the .mat files of SBD"
        raise KDError(f"there is no {train} with a folder SegmentationClassAug", hint=hint, path="sbd")
    names, held = names_in(train), names_in(val)
    if both := sorted({*names} & {*held}):
        more = f" and {len(both) - 1} more are validation images" if len(both) > 1 else " is a validation image"
        raise KDError(f"{train}: {both[0]}{more}")
    masks = "SegmentationClassAug" if sbd else "SegmentationClass"
    parts = (PairSubset(pairs(folder, names, masks)), PairSubset(pairs(folder, held, "SegmentationClass")))
    return Parts(*parts, None, VOC_CLASSES, {"train": str(train), "val": str(val)})


def pairs(folder: Path, names: list[str], masks: str) -> FilePairs:
    """The files of some images."""
    return FilePairs(
        [Pair(name, folder / "JPEGImages" / f"{name}.jpg", folder / masks / f"{name}.png") for name in names], VOC
    )


def find_folder(root: Path, download: bool) -> Path:
    """The folder that holds ``JPEGImages``, downloaded where ``root`` has none; KDError without it."""
    for subfolder in PLACES:
        if (root / subfolder / "JPEGImages").is_dir():
            return root / subfolder
    if not download:
        raise KDError(f"{root}: contains no VOCdevkit/VOC2012 with JPEGImages, and data.download is false")
    fetch_voc(root)
    return root / "VOCdevkit" / "VOC2012"


def fetch_voc(root: Path) -> None:
    """Download the archive (2 GB), verify it and unpack it into ``root``; KDError saying what to do by hand."""
    hint = f"put the archive at {root / URL.rpartition('/')[2]} by hand, or set data.root to what holds VOCdevkit"
    try:
        archive = fetch(URL, folder=root)
    except KDError as error:
        raise KDError(error.problems[0].message, hint=hint) from error
    if (md5 := digest(archive)) != MD5:
        discard(archive)
        raise KDError(f"{URL}: the file's MD5 is {md5}, not {MD5}; it was not kept", hint=hint)
    unpack(archive, "VOCdevkit", root)


def digest(path: Path) -> str:
    """The MD5 of a file, which is what was published for this archive."""
    state = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


SOURCES("voc2012")(
    MaskSource(
        "PASCAL VOC 2012: 1,464 + 1,449 images, 20 classes and background; downloaded (2 GB)",
        read_voc,
        splits=("train", "val"),
        classes=VOC_CLASSES,
        size=520,
        crop=(480, 480),
    )
)
