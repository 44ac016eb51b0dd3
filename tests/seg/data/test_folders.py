"""Images and masks of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_seg.data.folders import files_in
from kd_seg.data.image_files import FilePairs, Pair, identity_values
from kd_seg.data.sources import PairSubset
from kd_seg.data.spec import DataSpec
from kd_seg.task import SemanticSegmentation


def picture(path: Path, value: int = 0, mode: str = "L") -> None:
    """A picture of one value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (6, 4), value).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images, in two formats and a folder below, with their masks."""
    picture(tmp_path / "train/images/a.JPG", mode="RGB")
    picture(tmp_path / "train/images/city/b.1.png", mode="RGB")
    picture(tmp_path / "train/masks/a.png", 1)
    picture(tmp_path / "train/masks/city/b.1.tif", 2)
    (tmp_path / "train/images/notes.txt").write_text("no picture")
    return tmp_path


def read(root: Path, *, train: dict[str, str] | None = None, **more: Any) -> Parts[PairSubset]:
    spec = {"train": {"images": "train/images", "masks": "train/masks", **(train or {})}}
    folders = {**spec, **{name: more.pop(name) for name in ("val", "test") if name in more}}
    return DataSpec(root=str(root), folders=folders, classes=["ground", "road", "car"], **more).read()


def test_a_mask_has_its_images_name(root: Path) -> None:
    parts = read(root)
    assert (parts.val, parts.test, parts.classes) == (None, None, ("ground", "road", "car"))
    assert [parts.train.name(row) for row in range(2)] == ["a", "city/b.1"]
    assert [int(parts.train.read(row)[1].max()) for row in range(2)] == [1, 2]


def test_lists_choose_and_give_the_order(root: Path) -> None:
    (root / "some.txt").write_text("city/b.1\r\n")
    parts = read(root, train={"list": "some.txt"}, val={"images": "train/images", "masks": "train/masks"})
    assert len(parts.train) == 1
    assert parts.train.name(0) == "city/b.1"
    assert parts.val is not None
    assert len(parts.val) == 2


def test_absolute_paths(root: Path) -> None:
    assert len(read(Path("elsewhere"), train={"images": f"{root}/train/images", "masks": f"{root}/train/masks"}).train)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("train/masks/a.png", r"train/masks: contains no mask a\.\*, as .*a\.JPG asks for"),
        ("train/images/a.JPG", r"train/masks/a\.png: there is no image of that name in .*train/images"),
    ],
)
def test_one_without_the_other_is_named(root: Path, lost: str, message: str) -> None:
    (root / lost).unlink()
    with pytest.raises(KDError, match=message):
        read(root)


def test_a_listed_image_that_is_not_there(root: Path) -> None:
    (root / "some.txt").write_text("a.png\n")
    with pytest.raises(KDError, match=r"train/images: contains no image a\.png\.\*, as the list some\.txt asks for"):
        read(root, train={"list": "some.txt"})


def test_two_pictures_of_one_name(root: Path) -> None:
    picture(root / "train/images/a.png", mode="RGB")
    with pytest.raises(KDError, match=r"a\.png: a\.JPG has the same name, so the image is ambiguous"):
        read(root)


def test_no_folder_and_an_empty_one(root: Path) -> None:
    with pytest.raises(KDError, match=r"there is no folder .*nowhere"):
        read(root, train={"masks": "nowhere"})
    (root / "empty").mkdir()
    with pytest.raises(KDError, match=r"empty: contains no image"):
        files_in(root / "empty")


def test_a_class_out_of_range_is_named_with_its_file(root: Path) -> None:
    picture(root / "train/masks/a.png", 3)
    with pytest.raises(
        KDError, match=r"masks/a\.png: holds the value 3, which is not a class; there are 0 \.\. 2 and 255"
    ):
        read(root).train.read(0)
    assert int(read(root, void=[3, 255]).train.read(0)[1].max()) < 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": None}, "(?s)classes.*valid list"),
        ({"name": "voc2012"}, "(?s)folders.*Extra inputs"),
        ({"classes": ["one"]}, "at least 2"),
        ({"sbd": True}, "(?s)sbd.*Extra inputs"),
    ],
)
def test_what_a_config_may_not_say(values: dict[str, Any], message: str) -> None:
    right = {"folders": {"train": {"images": "a", "masks": "b"}}, "classes": ["one", "two"]}
    with pytest.raises(ValueError, match=message):
        DataSpec(**{**right, **values})


def test_values_say_which_value_a_class_has(root: Path) -> None:
    picture(root / "train/masks/a.png", 255)
    parts = read(root, values=[0, 2, 255], void=[])
    assert [int(parts.train.read(row)[1].max()) for row in range(2)] == [2, 1]
    with pytest.raises(KDError, match=r"holds the value 2, which is not a class; there are 1, 3, 255 and 0 for void"):
        read(root, values=[1, 3, 255], void=0).train.read(1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"void": 0}, r"(?s)0 is the value of the class 'ground', and void.*hint: .*`values: \[1, 2, 3\]`"),
        ({"void": [9, 2]}, "2 is the value of the class 'car', and void"),
        ({"values": [0, 1]}, "has 2 values for 3 classes"),
        ({"values": [0, 1, 1]}, "gives the value 1 to two classes"),
        ({"values": [0, 1, 255]}, "255 is the value of the class 'car', and void"),
    ],
)
def test_values_that_do_not_agree_are_refused(root: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(root, **values)


def test_a_mask_is_turned_like_its_image_and_others_are_counted(root: Path) -> None:
    for name, mode in (("images/a.JPG", "RGB"), ("masks/a.png", "L")):
        image = Image.new(mode, (6, 4), 1)
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(root / "train" / name, exif=exif)
    image, mask = read(root).train.read(0)
    assert (image.size, mask.shape) == ((4, 6), (6, 4))
    assert read(root).notes == (Note.warning(f"1 file is passed over in {root}/train/images, by the ending: 1 .txt"),)


@pytest.mark.parametrize("value", [3, 7, 254])
def test_a_value_without_a_class_in_validation_alone_stops_the_run(root: Path, value: int) -> None:
    picture(root / "val/images/0.png", mode="RGB")
    picture(root / "val/masks/0.png", value)
    values: dict[str, Any] = {"workers": 0, "crop": 4, "size": 4, "classes": ["ground", "road", "car"]}
    folders = {split: {"images": f"{split}/images", "masks": f"{split}/masks"} for split in ("train", "val")}
    splits = SemanticSegmentation().load(DataSpec(root=str(root), folders=folders, **values), seed=0)
    with pytest.raises(KDError, match=rf"val/masks/0\.png: holds the value {value}, which is not a class"):
        splits.screen()
    picture(root / "val/masks/0.png", 0)
    splits = SemanticSegmentation().load(DataSpec(root=str(root), folders=folders, **values), seed=0)
    splits.screen()
    assert "the class 'ground' has no training sample" in "".join(map(str, splits.summary.warnings()))


def test_masks_whose_compression_changes_values_are_counted(root: Path) -> None:
    assert read(root).train.pairs.notes(np.array([0])) == []
    pairs = [Pair(name, root / "a.png", root / name) for name in ("a.png", "b.jpg", "c.JPEG")]
    for pair in pairs:
        pair.mask.touch()
    (root / "a.png").touch()
    [note] = FilePairs(pairs, identity_values(2, 255)).notes(np.arange(3))
    assert note.is_warning
    assert note.text.startswith("2 masks are .jpg files, whose compression changes classes near edges (")
