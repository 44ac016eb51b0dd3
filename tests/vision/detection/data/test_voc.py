"""VOC's layout: lists, XML files, pixels that count from 1, and difficult objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.errors import KDError
from kd_vision.detection.data.categories import VOC_CLASSES
from kd_vision.detection.data.spec import DataSpec, info_of

DOG, CAT = VOC_CLASSES.index("dog") + 1, VOC_CLASSES.index("cat") + 1


def thing(name: str, box: str, difficult: str = "0") -> str:
    """An object with a box of xmin ymin xmax ymax, and a part that is none."""
    sides = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box.split(), strict=True)
    )
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{sides}</bndbox>{part}</object>"


def written(root: Path, year: str, lists: dict[str, list[str]], objects: dict[str, list[str]]) -> None:
    """Images of 60 x 50 pixels with their objects, and lists of their names."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, names in lists.items():
        (folder / "ImageSets/Main" / f"{name}.txt").write_text("".join(f"{image}\n" for image in names))
    size = "<size><width>60</width><height>50</height><depth>3</depth></size>"
    for name, things in objects.items():
        Image.new("RGB", (60, 50)).save(folder / "JPEGImages" / f"{name}.jpg")
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{''.join(things)}</annotation>")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two years, the lists of which have one image each."""
    things = [thing("dog", "1 1 60 50"), thing("cat", "11 21 30 40.5", "1")]
    written(tmp_path, "2012", {"train": ["2008_1"], "val": ["2008_2"]}, {"2008_1": things, "2008_2": things})
    written(tmp_path, "2007", {"trainval": ["000001"], "test": ["000002"]}, {"000001": things[1:], "000002": []})
    return tmp_path


def test_boxes_include_their_last_pixel_and_count_from_one(root: Path) -> None:
    train = DataSpec(name="voc_detection", root=str(root)).read().train
    image, annotated = train.read(0)
    assert image.size == (60, 50)
    assert annotated.boxes.tolist() == [[0, 0, 60, 50], [10, 20, 30, 40.5]]
    assert annotated.labels.tolist() == [DOG, CAT]
    assert annotated.areas.tolist() == [3000, 410]
    assert (annotated.name, annotated.size, annotated.image_id) == ("2008_1", (50, 60), 0)
    assert train.boxes.categories.names == ("background", *VOC_CLASSES)


def test_difficult_objects_train_where_a_config_asks_for_it_and_are_never_scored(root: Path) -> None:
    for difficult, labels in ((False, [DOG]), (True, [DOG, CAT])):
        train = DataSpec(name="voc_detection", root=str(root), difficult=difficult).read().train
        assert train.annotated(0).crowds.tolist() == [False, True]
        inside = train.annotated(0).for_training((50, 60))
        assert (inside.labels.tolist(), inside.crowds.any()) == (labels, False)


def test_lists_of_several_years(root: Path) -> None:
    lists = {"train_lists": ["2007_trainval", "2012_train"], "val_lists": None, "test_lists": ["2007_test"]}
    parts = DataSpec(name="voc_detection", root=str(root), val=0, **lists).read()
    assert [parts.train.name(row) for row in range(2)] == ["000001", "2008_1"]
    assert parts.val is None
    assert parts.test is not None
    assert (len(parts.test), len(parts.test.annotated(0).boxes)) == (1, 0)
    assert parts.train.with_objects().rows.tolist() == [1]  # a difficult object is nothing to train on
    assert parts.places["train"].endswith("(2007_trainval, 2012_train)")
    with pytest.raises(KDError, match=r"the image 2008_1 is in train_lists and in val_lists"):
        DataSpec(name="voc_detection", root=str(root), val_lists=["2012_train"]).read()
    with pytest.raises(KDError, match=r"contains no VOCdevkit/VOC1999 with JPEGImages"):
        DataSpec(name="voc_detection", root=str(root), train_lists=["1999_train"]).read()
    with pytest.raises(KDError, match=r"walk\.txt: is not a readable list of names"):
        DataSpec(name="voc_detection", root=str(root), train_lists=["2012_walk"]).read()
    with pytest.raises(ValueError, match="train_lists: names no list"):
        DataSpec(name="voc_detection", root=str(root), train_lists=[])


def test_classes_of_ones_own(root: Path) -> None:
    data = DataSpec(name="voc_detection", root=str(root), classes=["dog", "cat"])
    assert info_of(data).classes == ("background", "dog", "cat")
    assert data.read().train.annotated(0).labels.tolist() == [1, 2]
    with pytest.raises(ValueError, match="has 'dog' twice"):
        DataSpec(name="voc_detection", root=str(root), classes=["dog", "dog"])


def test_all_faults_are_told_at_once(root: Path) -> None:
    wrong = {
        "a": [thing("dog", "1 1 60 50"), thing("wolf", "1 1 9 9"), thing("dog", "1 1 63 50"), thing("dog", "9 9 8 9")],
        "b": [thing("dog", "1 1 nan 9")],
        "c": [thing("dog", "1 1 x 9")],
        "d": [thing("dog", "1 1 9 9", "yes")],
        "e": [thing("", "1 1 9 9")],
        "f": [],
        "g": [],
        "h": [],
        "i": [],
    }
    written(root, "2012", {"train": [*wrong, "j", "../k"]}, wrong)
    folder = root / "VOCdevkit/VOC2012"
    (folder / "Annotations/f.xml").write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>')
    (folder / "Annotations/g.xml").write_text("<annotation>")
    (folder / "JPEGImages/h.jpg").unlink()
    (folder / "Annotations/i.xml").write_text("<annotation><size><width>a</width></size></annotation>")
    data = DataSpec(name="voc_detection", root=str(root))
    with pytest.raises(KDError, match=r"VOC2012|2012_train") as caught:
        data.read()
    head, *lines = caught.value.problems[0].message.splitlines()
    assert head == f"{root} (2012_train): 13 faults:"
    said = [line.strip().removeprefix(f"{folder}/Annotations/") for line in lines]
    assert said[:10] == [
        "a.xml: object 2 is of the class 'wolf', which there is not",
        "a.xml: object 3 has a box that leaves its image of 60 x 50 by 3 pixels",
        "a.xml: object 4 has a box without an area",
        "b.xml: object 1 has a box that is not finite",
        "c.xml: object 1 has no 'bndbox' of four numbers",
        "d.xml: object 1 has a 'difficult' of yes: it is 0 or 1",
        "e.xml: object 1 has no name",
        "f.xml: declares a document type, which annotations do not need",
        "g.xml: is not XML: no element found: line 1, column 12",
        f"h.xml: there is no image {folder}/JPEGImages/h.jpg",
    ]
    parts = DataSpec(name="voc_detection", root=str(root), on_error="skip").read()
    assert [parts.train.name(row) for row in range(len(parts.train))] == ["a", "b"]
    assert parts.train.annotated(0).labels.tolist() == [DOG]
    (note,) = parts.notes
    assert "i.xml: has a size of a x" in note.text or "i.xml: has a size of  x a" in note.text
    assert "j.xml: cannot be read: No such file" in note.text
    assert "the name '../k' leads out of the folder of the annotations" in note.text


def test_a_size_that_is_not_told_is_that_of_the_image(root: Path) -> None:
    folder = root / "VOCdevkit/VOC2012"
    (folder / "Annotations/2008_1.xml").write_text(f"<annotation>{thing('dog', '1 1 60 50')}</annotation>")
    train = DataSpec(name="voc_detection", root=str(root)).read().train
    assert train.size(0) == (50, 60)
    assert np.array_equal(train.annotated(0).boxes, [[0, 0, 60, 50]])


def test_the_fingerprint_is_that_of_the_annotations(root: Path) -> None:
    data = DataSpec(name="voc_detection", root=str(root))
    first = data.read().train.boxes.fingerprint
    assert data.read().train.boxes.fingerprint == first
    assert data.model_copy(update={"difficult": True}).read().train.boxes.fingerprint != first
    path = root / "VOCdevkit/VOC2012/Annotations/2008_1.xml"
    path.write_text(path.read_text().replace("40.5", "40"))
    assert data.read().train.boxes.fingerprint != first


@pytest.mark.parametrize("name", ["train", "12_train", "2012_", "2012_../x"])
def test_a_list_has_a_year_and_a_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"val_lists: must be a year and the name of a file .*, not"):
        DataSpec(name="voc_detection", root=str(tmp_path), val_lists=[name])
    DataSpec(name="voc_detection", root=str(tmp_path), val_lists=["2012_my-own_list"])


def test_xml_of_another_form_is_no_image_without_objects(root: Path) -> None:
    next((root / "VOCdevkit/VOC2012/Annotations").iterdir()).write_text("<svg/>")
    with pytest.raises(KDError, match="is a <svg> and not an <annotation>"):
        DataSpec(name="voc_detection", root=str(root)).read()
