"""Starter configs for a user's images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from kd_core.errors import KDError
from kd_vision.cli import main
from kd_vision.starter import starter


def picture(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(file)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        picture(tmp_path / "pets" / "train" / name / "1.png")
    (tmp_path / "pets" / "train" / "empty").mkdir()
    return tmp_path / "pets"


def test_folders_of_classes(pets: Path) -> None:
    made = starter(pets)
    assert made.data == {"name": "image_folder", "root": str(pets), "num_classes": 2, "size": 224}
    assert made.seen == ["2 training images of 2 classes: cat, dog"]


def test_folders_of_classes_without_train_are_told_where_to_go(tmp_path: Path) -> None:
    picture(tmp_path / "cat" / "1.png")
    with pytest.raises(KDError, match="there are no folders of at least two classes") as error:
        starter(tmp_path)
    assert "move the folders cat into" in str(error.value)


def test_a_table_with_its_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / f"{split}.csv").write_text(
            "n,file,kind\n1,a.png,x\n2,b.png,y\n3,c.png,y\n4,d.png,x\n", encoding="utf-8"
        )
    made = starter(tmp_path / "train.csv")
    assert made.data["files"] == {split: str(tmp_path / f"{split}.csv") for split in ("train", "val")}
    assert (made.data["image"], made.data["label"]) == ("file", "kind")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no column has paths of images"),
        ("a,b\n", "there is no row"),
        ("image\na.png\n", "no column has classes"),
    ],
)
def test_a_table_without_images_or_classes_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    with pytest.raises(KDError, match=message):
        starter(tmp_path / "x.csv")


def test_boxes(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps({}), encoding="utf-8")
    made = starter(tmp_path)
    assert made.task == "object_detection"
    assert made.data["val_annotations"] == "valid/_annotations.coco.json"
    (tmp_path / "yolo").mkdir()
    (tmp_path / "yolo" / "data.yaml").write_text("names: [a]", encoding="utf-8")
    assert starter(tmp_path / "yolo").data == {"name": "yolo", "root": str(tmp_path / "yolo")}


def test_the_command_writes_a_config_that_passes_check(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["new", "pets"])
    assert result.exit_code == 0, result.output
    assert "pets.yaml: ok" in result.stdout
    assert Path("pets.yaml").read_text(encoding="utf-8").startswith("# ")
    assert CliRunner().invoke(main, ["new", "pets"]).exit_code == 2  # there is a file
    assert CliRunner().invoke(main, ["new", "nothing"]).exit_code == 2
