"""PASCAL VOC 2012: its layout, its masks, the list of SBD."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_seg.data import voc
from kd_seg.data.sources import VOID, PairSubset
from kd_seg.data.voc import read_voc
from kd_seg.results.pictures import palette_mask


def image(folder: Path, name: str, value: int = 15, masks: str = "SegmentationClass") -> None:
    """An image whose mask is of one class, with a border of void."""
    for each in ("JPEGImages", masks):
        (folder / each).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 8)).save(folder / "JPEGImages" / f"{name}.jpg")
    mask = np.full((8, 10), value, np.int16)
    mask[0] = 255
    palette_mask(mask).save(folder / masks / f"{name}.png")


def listed(folder: Path, **lists: str) -> None:
    """Lists of names."""
    place = folder / "ImageSets" / "Segmentation"
    place.mkdir(parents=True, exist_ok=True)
    for name, names in lists.items():
        (place / f"{name}.txt").write_text("\n".join(names.split()) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images to train on, one to score."""
    found = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("2007_000001", "2007_000002", "2007_000003"):
        image(found, name)
    listed(found, train="2007_000002 2007_000001", val="2007_000003")
    return found


def read(root: Path, **more: Any) -> Parts[PairSubset]:
    return read_voc(root, download=False, **more)


def test_the_official_lists_in_their_order(folder: Path) -> None:
    parts = read(folder.parents[1])
    assert parts.val is not None
    assert parts.test is None
    assert [parts.train.name(row) for row in range(2)] == ["2007_000002", "2007_000001"]
    assert [len(parts.train), len(parts.val), len(parts.classes)] == [2, 1, 21]
    picture, mask = parts.train.read(0)
    assert picture.size == (10, 8)
    assert np.unique(mask).tolist() == [VOID, 15]
    assert (mask == VOID).sum() == 10


@pytest.mark.parametrize("root", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_is_the_devkit_or_what_is_in_it_or_what_holds_it(folder: Path, root: str) -> None:
    assert len(read(folder.parents[1] / root).train) == 2


def test_the_archive_of_another_place_of_download(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    folder.parent.rename(tmp_path / "new" / "VOCdevkit")
    (tmp_path / "new").rename(tmp_path / "TrainVal")
    assert len(read(tmp_path).train) == 2


def test_sbd(folder: Path) -> None:
    for name in ("2007_000001", "2008_000009"):
        image(folder, name, 3, "SegmentationClassAug")
    with pytest.raises(
        KDError, match=r"sbd: there is no .*trainaug\.txt with a folder SegmentationClassAug\n +hint: the"
    ):
        read(folder, sbd=True)
    listed(folder, trainaug="2007_000001 2008_000009")
    parts = read(folder, sbd=True)
    assert len(parts.train) == 2
    assert int(parts.train.read(1)[1].max()) == 3
    assert parts.val is not None
    assert int(parts.val.read(0)[1].max()) == 15


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("2007_000001 2007_000003", r"trainaug\.txt: 2007_000003 is a validation image"),
        ("2007_000001 2007_000003 2007_000004", r"trainaug\.txt: 2007_000003 and 1 more are validation images"),
    ],
)
def test_sbd_without_the_images_that_are_scored(folder: Path, names: str, message: str) -> None:
    image(folder, "2007_000004", masks="SegmentationClassAug")
    listed(folder, trainaug=names, val="2007_000003 2007_000004")
    with pytest.raises(KDError, match=message):
        read(folder, sbd=True)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("ImageSets/Segmentation/val.txt", r"val\.txt: is not a readable list of names"),
        ("SegmentationClass/2007_000002.png", r"there is no file .*2007_000002\.png, which 2007_000002 needs"),
        ("JPEGImages/2007_000003.jpg", r"there is no file .*2007_000003\.jpg, which 2007_000003 needs"),
    ],
)
def test_what_is_missing_is_named(folder: Path, lost: str, message: str) -> None:
    (folder / lost).unlink()
    with pytest.raises(KDError, match=message):
        read(folder)


def test_without_the_data_and_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"contains no VOCdevkit/VOC2012 with JPEGImages, and data\.download is false"):
        read(tmp_path)


def test_a_download(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    root.mkdir()
    archive = root / voc.URL.rpartition("/")[2]  # put there by hand
    with tarfile.open(archive, "w") as tar:
        tar.add(folder.parent, "VOCdevkit")
    monkeypatch.setattr(voc, "MD5", voc.digest(archive))
    assert len(read_voc(root, download=True).train) == 2


def test_another_archive_is_not_kept(tmp_path: Path) -> None:
    archive = tmp_path / voc.URL.rpartition("/")[2]
    archive.write_bytes(b"evil")
    with pytest.raises(KDError, match=r"the file's MD5 is .*; it was not kept"):
        read_voc(tmp_path, download=True)
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_fails_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc, "URL", "http://127.0.0.1:1/voc.tar")
    with pytest.raises(KDError, match=r"cannot download http.*tar: .*\n +hint: put the archive at .*tar by"):
        read_voc(tmp_path, download=True)


@pytest.mark.realdata
def test_the_real_one(real_data: Path) -> None:
    """As torchvision reads it, pixel for pixel."""
    parts = read(real_data / "voc2012_subset")
    assert parts.val is not None
    for part, name in ((parts.train, "train"), (parts.val, "val")):
        theirs = datasets.VOCSegmentation(str(real_data / "voc2012_subset"), "2012", name)
        assert len(part) == len(theirs)
        for row in range(0, len(part), 7):
            (image, mask), (their_image, their_mask) = part.read(row), theirs[row]
            assert np.array_equal(np.asarray(image), np.asarray(their_image))
            assert np.array_equal(np.where(mask == VOID, 255, mask), np.asarray(their_mask))
