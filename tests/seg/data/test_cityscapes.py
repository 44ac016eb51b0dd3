"""Cityscapes: its layout, and which of its values count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import Cityscapes

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_seg.data.cityscapes import CLASSES, read_cityscapes
from kd_seg.data.sources import VOID, PairSubset


def shot(root: Path, split: str, city: str, number: int, values: np.ndarray, kind: str = "labelIds") -> None:
    """An image and its mask under their official names."""
    name = f"{city}_{number:06}_000019"
    for path, array in (
        (root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", np.zeros((*values.shape, 3), np.uint8)),
        (root / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", values.astype(np.uint8)),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


def read(root: Path) -> Parts[PairSubset]:
    return read_cityscapes(root)


def test_the_classes_are_torchvisions() -> None:
    theirs = {each.name: (each.train_id, each.id) for each in Cityscapes.classes if 0 <= each.train_id < 255}
    assert [(name, *theirs[name]) for name in CLASSES] == [(n, i, v) for i, (n, v) in enumerate(CLASSES.items())]


def test_label_ids_become_classes(tmp_path: Path) -> None:
    ids = np.arange(34).reshape(2, 17)
    shot(tmp_path, "train", "aachen", 1, ids)
    shot(tmp_path, "train", "bochum", 0, ids)
    shot(tmp_path, "val", "munster", 0, ids)
    parts = read(tmp_path)
    assert parts.val is not None
    assert (len(parts.train), len(parts.val)) == (2, 1)
    assert parts.train.name(0) == "aachen_000001_000019"
    mask = parts.train.read(0)[1].ravel()
    meant = {each.id: each.train_id for each in Cityscapes.classes if each.id >= 0}
    assert mask.tolist() == [meant[value] if 0 <= meant[value] < 255 else VOID for value in range(34)]


def test_training_ids_where_there_are_no_others(tmp_path: Path) -> None:
    for split in ("train", "val"):
        shot(tmp_path, split, "aachen", 1, np.array([[0, 18, 255]]), "labelTrainIds")
    assert read(tmp_path).train.read(0)[1].tolist() == [[0, 18, VOID]]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        KDError, match=r"does not contain the folders leftImg8bit/train and gtFine/train\n +hint: register at"
    ):
        read(tmp_path)
    shot(tmp_path, "train", "aachen", 1, np.zeros((2, 2)))
    with pytest.raises(KDError, match=r"leftImg8bit/val: contains no CITY/\*_leftImg8bit\.png"):
        read(tmp_path)
    shot(tmp_path, "val", "munster", 1, np.zeros((2, 2)))
    (tmp_path / "gtFine/train/aachen/aachen_000001_000019_gtFine_labelIds.png").unlink()
    shot(tmp_path, "train", "bochum", 1, np.zeros((2, 2)))
    with pytest.raises(KDError, match=r"there is no file .*aachen_000001_000019_gtFine_labelIds\.png"):
        read(tmp_path)


def test_a_value_that_is_no_label(tmp_path: Path) -> None:
    for split in ("train", "val"):
        shot(tmp_path, split, "aachen", 1, np.array([[7, 77]]))
    with pytest.raises(KDError, match=r"labelIds\.png: holds the value 77, which is not a class"):
        read(tmp_path).train.read(0)
