"""Images and masks of the hub's data sets, from folders that datasets wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from kd_core.errors import KDError
from kd_seg.data.spec import DataSpec
from kd_seg.data.splits import SegSplit
from kd_seg.data.transforms import Crop

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


def test_pairs_of_parquet_files_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    datasets.disable_progress_bars()
    save(tmp_path / "saved", [np.full((6, 8), row % 2, np.uint8) for row in range(12)])
    (tmp_path / "d").mkdir()
    for split, rows in datasets.load_from_disk(str(tmp_path / "saved")).items():
        rows.to_parquet(tmp_path / "d" / f"{split}.parquet", batch_size=3)
    streamed, whole = (read(tmp_path / "d", streaming=how) for how in ({"window": 2}, False))
    for row in range(12):
        (image, mask), (other, drawn) = streamed.train.read(row), whole.train.read(row)
        assert np.array_equal(image, other)
        assert np.array_equal(mask, drawn)
    assert len(streamed.val) == 12
    assert streamed.train.pairs.fingerprint == read(tmp_path / "d", streaming=True).train.pairs.fingerprint
    order, plain = torch.randperm(12), torch.arange(12)
    split = SegSplit(streamed.train, Crop(6, (6, 8)), workers=0)
    arranged = split.arrange(order, 4)
    assert sorted(arranged.tolist()) == plain.tolist()
    assert torch.equal(split.arrange(plain, 4), plain)
    assert len({int(row) // 3 for row in arranged[:3]}) <= 2
    assert torch.equal(SegSplit(whole.train, Crop(6, (6, 8)), workers=0).arrange(order, 4), order)
