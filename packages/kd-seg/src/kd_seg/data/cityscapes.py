"""Cityscapes (Cordts et al., CVPR 2016): streets, 19 of 34 classes count."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_seg.data.image_files import ClassTable, FilePairs, Pair, identity_values
from kd_seg.data.sources import SOURCES, VOID, MaskSource, PairSubset

CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The training classes in their order, each with its value in ``labelIds`` files."""
IDS = 34
IMAGE, LABELS, TRAINING = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def label_ids() -> ClassTable:
    """``labelIds``: the other of the 34 are void."""
    table = np.full(IDS, VOID, np.int16)
    table[list(CLASSES.values())] = np.arange(len(CLASSES))
    return ClassTable(table)


def read_cityscapes(root: Path) -> Parts[PairSubset]:
    """``leftImg8bit/{train,val}/CITY`` with ``gtFine``; KDError, saying where they are to be had, without them."""
    if not (root / "leftImg8bit" / "train").is_dir() or not (root / "gtFine" / "train").is_dir():
        hint = "register at www.cityscapes-dataset.com for leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
        raise KDError(f"{root}: does not contain the folders leftImg8bit/train and gtFine/train", hint=hint)
    train, val = (PairSubset(city_pairs(root, split)) for split in ("train", "val"))
    places = {split: str(root / "leftImg8bit" / split) for split in ("train", "val")}
    return Parts(train, val, None, tuple(CLASSES), places)


def city_pairs(root: Path, split: str) -> FilePairs:
    """The images of a split with their masks, all of ``labelIds`` or, where there are none, of ``labelTrainIds``."""
    images = sorted((root / "leftImg8bit" / split).glob(f"*/*{IMAGE}"))
    if not images:
        raise KDError(f"{root / 'leftImg8bit' / split}: contains no CITY/*{IMAGE}")
    has_labels = any((root / "gtFine" / split).glob(f"*/*{LABELS}"))
    ending, values = (LABELS, label_ids()) if has_labels else (TRAINING, identity_values(len(CLASSES), 255))
    files = []
    for image in images:
        name = image.name.removesuffix(IMAGE)
        files.append(Pair(name, image, root / "gtFine" / split / image.parent.name / (name + ending)))
    return FilePairs(files, values)


SOURCES("cityscapes")(
    MaskSource(
        "Cityscapes: 2,975 + 500 images of 2048x1024 pixels, 19 classes; registration needed",
        read_cityscapes,
        splits=("train", "val"),
        classes=tuple(CLASSES),
        size=1024,
        crop=(512, 1024),
    )
)
