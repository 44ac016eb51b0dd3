"""Images and masks of the hub's data sets, from folders that datasets wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from kd_core.errors import KDError
from kd_seg.data.spec import DataSpec

datasets = pytest.importorskip("datasets")


def save(folder: Path, masks: list[Any], **names: str) -> None:
    """Random images of 6x8 pixels with masks, as a data set."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(masks), 6, 8, 3), dtype=np.uint8)
    names = {"image": "image", "mask": "annotation", **names}
    values = {names["image"]: [Pictures.fromarray(image) for image in pixels]}
    values[names["mask"]] = [Pictures.fromarray(mask) for mask in masks]
    features = datasets.Features({name: datasets.Image() for name in values})
    table = datasets.Dataset.from_dict(values, features=features)
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(folder)


def read(folder: Path, **options: Any) -> Any:
    return DataSpec(hub=str(folder), classes=["ground", "thing"], **options).read()


def test_images_and_masks_are_read(tmp_path: Path) -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[2:4], mask[5] = 1, 255
    save(tmp_path / "d", [mask, mask])
    parts = read(tmp_path / "d")
    image, classes = parts.train.read(1)
    assert (image.mode, image.size) == ("RGB", (8, 6))
    assert classes[2:4].min() == 1
    assert (classes[5] == -100).all()
    assert (len(parts.train), len(parts.val), parts.classes) == (2, 2, ("ground", "thing"))
    assert parts.train.pairs.fingerprint == read(tmp_path / "d").train.pairs.fingerprint


def test_columns_and_masks_that_are_wrong(tmp_path: Path) -> None:
    save(tmp_path / "d", [np.full((6, 8), 7, np.uint8)], image="photo", mask="drawing")
    with pytest.raises(KDError, match=r"data\.image: the column is not known: photo and drawing may be it"):
        read(tmp_path / "d")
    parts = read(tmp_path / "d", image="photo")
    with pytest.raises(KDError, match="train: row 0: holds the value 7, which is not a class"):
        parts.train.read(0)
    save(tmp_path / "e", [np.zeros((3, 8), np.uint8)])
    with pytest.raises(KDError, match="row 0: is 8 x 3 pixels, its image 8 x 6"):
        read(tmp_path / "e").train.read(0)
