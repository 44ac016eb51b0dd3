"""The layout of YOLO's trainers: label files, folders, and what a data.yaml says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.data.images import FORMATS
from kd_core.data.shapes import pixels_of
from kd_core.errors import KDError
from kd_vision.detection.data.spec import DataSpec
from kd_vision.detection.data.yolo import label_file


def written(root: Path, labels: dict[str, str | None], yaml: str | None = "names: [cat, dog]\n") -> Path:
    """Images of 60 x 50 pixels by their paths below ``images`` with the content of their label files."""
    for name, text in labels.items():
        for folder in ("images", "labels"):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 50)).save(root / "images" / f"{name}.png")
        if text is not None:
            (root / "labels" / f"{name}.txt").write_text(text)
    if yaml is not None:
        splits = "train: images/train\n" + ("val: images/val\n" if (root / "images/val").is_dir() else "")
        (root / "data.yaml").write_text(splits + yaml)
    return root


def yolo(root: Path, **more: object) -> DataSpec:
    """A config's ``data:``."""
    return DataSpec(name="yolo", root=str(root), **more)


def test_boxes_and_polygons(tmp_path: Path) -> None:
    text = "1 0.5 0.5 1 0.5\n\n0 0.1 0.1 0.5 0.1 0.5 0.5\n"
    parts = yolo(written(tmp_path, {"train/a": text, "train/b": "", "val/c": "0 0.5 0.5 0.1 0.1"})).read()
    image, annotated = parts.train.read(0)
    assert image.size == (60, 50)
    assert np.allclose(annotated.boxes, [[0, 12.5, 60, 37.5], [6, 5, 30, 25]])
    assert annotated.labels.tolist() == [2, 1]
    assert np.allclose(annotated.areas, [1500, 240])
    assert (annotated.name, annotated.size, annotated.shapes) == ("a", (50, 60), None)
    assert parts.train.boxes.categories.ids == (-1, 0, 1)
    assert parts.classes == ("background", "cat", "dog")
    assert parts.train.with_objects().rows.tolist() == [0]
    assert parts.val is not None
    assert len(parts.val) == 1


def test_masks_are_the_polygons(tmp_path: Path) -> None:
    root = written(tmp_path, {"train/a": "0 0.1 0.1 0.5 0.1 0.5 0.5"})
    annotated = yolo(root, masks=True).read().train.annotated(0)
    assert annotated.shapes is not None
    (shape,) = annotated.shapes
    assert 200 < pixels_of(shape, 50, 60).sum() < 280
    written(tmp_path, {"train/a": "0 0.5 0.5 0.1 0.1"})
    with pytest.raises(KDError, match=r"line 1 is a box, and masks need polygons"):
        yolo(root, masks=True).read()


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.1 0.1", "2 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1", "0 0.5 0.5 0 0.1", "0 0.9 0.5 0.4 0.1"]
    lines += [
        "0 0.5 0.5 0.1",
        "0 a 0.5 0.1 0.1",
        "0 0.5 0.5 0.1 nan",
        lines[0],
        "0 0 0 0.5 0.5 1 1",
        "1 0.5 0.5 1.02 1",
    ]
    root = written(tmp_path, {"train/a": "\n".join(lines), "train/b": ""})
    (root / "images/train/c.png").write_bytes(b"no image")
    with pytest.raises(KDError) as caught:
        yolo(root).read()
    head, *said = caught.value.problems[0].message.splitlines()
    assert head == f"{root / 'images/train'}: 10 faults:"
    assert [line.strip().removeprefix(f"{root}/labels/train/a.txt: ") for line in said] == [
        "line 6 has 4 numbers, and not the 5 of a box, or the class and x and y of each point",
        "line 7 has something that is not a number",
        "line 8 has a number that is not finite",
        "line 9 is the same as one above",
        "line 10 has a polygon without an area",
        "line 2 is of the class '2', which there is not",
        "line 3 is of the class '0.5', which there is not",
        "line 4 has a box without an area",
        "line 5 has a box that leaves its image of 60 x 50 by 6 pixels",
        f"{root / 'images/train/c.png'}: is not a readable image (of none of the formats {', '.join(FORMATS)})",
    ]
    parts = yolo(root, on_error="skip").read()
    assert parts.train.annotated(0).labels.tolist() == [1, 2]  # the last line leaves its image by a rounding
    assert len(parts.train) == 2


def test_images_without_a_label_file_are_counted(tmp_path: Path) -> None:
    parts = yolo(written(tmp_path, {"train/a": "0 0.5 0.5 0.1 0.1", "train/b": None, "train/c": None})).read()
    assert [note.text for note in parts.notes] == [
        f"{tmp_path / 'images/train'}: 2 images have no label file, and no object (b.txt, ...)"
    ]
    (tmp_path / "labels/train/a.txt").unlink()
    with pytest.raises(KDError, match=r"there is no .*labels/train/a\.txt, and no image has a label file"):
        yolo(tmp_path).read()


def test_labels_lie_beside_the_images_or_in_the_last_folder_of_that_name() -> None:
    assert label_file(Path("/x/images/y/images/train/a.jpg")) == Path("/x/images/y/labels/train/a.txt")
    assert label_file(Path("/x/y/images.jpg")) == Path("/x/y/images.txt")


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("names: []", "has no 'names' of classes"),
        ("names: {1: cat, 2: dog}", "the numbers of 'names' are not 0 to 1"),
        ("names: [cat, cat]", "'names' has 'cat' twice"),
        ("names: [cat, ' ']", "'names' has the name ' ', which is empty"),
        ("names: [cat, no]", "'names' has False, which is not a string"),
        ("names: [cat]\nnc: 2", "nc is 2, and there are 1 names"),
        ("names: [cat]\nval: 3", "val is neither a folder nor a list of folders"),
        ("names: [cat]\nval: images/nowhere", "there is no .*images/nowhere, which it names"),
        ("names: [cat]\nkpt_shape: x", "kpt_shape is not"),
        ("names: [cat", "is not readable as YAML: while parsing"),
        ("names: !!python/object/apply:os.system [echo]", "is not readable as YAML: could not determine a constructor"),
    ],
)
def test_a_data_yaml_of_another_form(tmp_path: Path, yaml: str, message: str) -> None:
    root = written(tmp_path, {"train/a": ""}, yaml)
    with pytest.raises(KDError, match=rf"data\.yaml: {message}"):
        yolo(root).read()


def test_where_a_data_yaml_looks(tmp_path: Path) -> None:
    root = written(tmp_path, {"train/a": "0 0.5 0.5 0.1 0.1", "other/b": "0 0.5 0.5 0.1 0.1"}, None)
    (root / "lists").mkdir()
    (root / "list.txt").write_text("./images/other/b.png\n\n")
    content = "path: .\ntrain: [../images/train, list.txt]\nnames: {0: cat}\ndownload: import os\n"
    (root / "coco8.yaml").write_text(content)
    for place in (root, root / "coco8.yaml"):
        parts = yolo(place).read()
        assert [parts.train.name(row) for row in range(len(parts.train))] == ["other/b", "train/a"]
    (root / "list.txt").write_text("../b.png")
    with pytest.raises(KDError, match=r"'\.\./b\.png' leads out of the folder of the list"):
        yolo(root).read()


def test_folders_without_a_data_yaml(tmp_path: Path) -> None:
    root = written(tmp_path / "one", {"train/a": "0 0.5 0.5 0.1 0.1", "val/b": ""}, None)
    with pytest.raises(KDError, match=r"contains no data\.yaml") as caught:
        yolo(root).read()
    assert "`classes` names the classes" in (caught.value.problems[0].hint or "")
    parts = yolo(root, classes=["cat"]).read()
    assert (len(parts.train), parts.val and len(parts.val)) == (1, 1)
    root = written(tmp_path / "two", {"a": "0 0.5 0.5 0.1 0.1"}, None)
    assert len(yolo(root, classes=["cat"]).read().train) == 1
    with pytest.raises(KDError, match="there is no folder or file"):
        yolo(tmp_path / "three", classes=["cat"]).read()


def test_an_image_of_two_splits_is_told(tmp_path: Path) -> None:
    root = written(tmp_path, {"train/a": "0 0.5 0.5 0.1 0.1"}, "names: [cat]\nval: images/train\n")
    (note,) = yolo(root).read().notes
    assert note.is_warning
    assert note.text == "1 image of the split val is in train, too (a.png)"


def test_keypoints_of_a_pose_are_not_read(tmp_path: Path) -> None:
    text = "0 0.5 0.5 0.1 0.1 " + "0.5 0.5 2 " * 2
    root = written(tmp_path, {"train/a": text}, "names: [cat]\nkpt_shape: [2, 3]\n")
    assert yolo(root).read().train.annotated(0).labels.tolist() == [1]
    with pytest.raises(ValueError, match="keypoints: the data set 'yolo' has no keypoints"):
        yolo(root, keypoints=True)


def test_a_polygon_on_a_line_has_no_area(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="line 1 has a polygon without an area"):
        yolo(written(tmp_path, {"train/a": "0 0.1 0.1 0.2 0.2 0.3 0.3"})).read()  # but for the rounding of its points


def test_no_class_has_two_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes: has 'a' twice"):
        DataSpec(name="yolo", root=str(tmp_path), classes=["a", "a"])


def test_a_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    root = written(tmp_path, {"train/a": "0 0.5 0.5 0.1 0.1"}, "names: [cat, dog]\nnc: 2\nnames: [dog, cat]\n")
    with pytest.raises(KDError, match=r"the key 'names' stands there twice.*line 4"):
        yolo(root).read()
