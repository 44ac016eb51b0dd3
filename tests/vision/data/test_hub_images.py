"""Images of the hub's data sets: from folders that datasets wrote, from files, and without a network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pictures

from kd_core.data.hub_data import data_pins
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_vision.data.folders import without_unreadable
from kd_vision.data.spec import DataSpec

datasets = pytest.importorskip("datasets")


def table(rows: int = 6, **columns: Any) -> Any:
    """Random images of 8x8 pixels with classes in turn, and further columns."""
    pixels = np.random.default_rng(0).integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    values = {"image": [Pictures.fromarray(image) for image in pixels], "label": [row % 2 for row in range(rows)]}
    made = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    for name, cells in columns.items():
        made = made.add_column(name, cells)
    return made, pixels


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def read(folder: Path | str, **options: Any) -> Any:
    return DataSpec(**{"hub": str(folder), **options}).read()


@pytest.mark.parametrize("form", ["saved", "parquet", "one"])
def test_folders_of_datasets_are_read(tmp_path: Path, form: str) -> None:
    train, pixels = table()
    if form == "saved":
        parts = {"train": train, "validation": table(2)[0], "test": table(4)[0]}
        datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    elif form == "one":
        train.save_to_disk(tmp_path / "d")
    else:
        (tmp_path / "d").mkdir()
        train.to_parquet(tmp_path / "d" / "train-00000-of-00001.parquet")
        table(4)[0].to_parquet(tmp_path / "d" / "test-00000-of-00001.parquet")
    parts = read(tmp_path / "d")
    assert parts.classes == ("cat", "dog")
    assert torch.equal(parts.train.target, torch.arange(6) % 2)
    assert np.array_equal(np.asarray(parts.train.images[3][0]), pixels[3])
    assert (parts.val is not None, parts.test is not None) == (form == "saved", form != "one")
    assert parts.train.digest() == read(tmp_path / "d").train.digest()


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    train, _ = table(kind=["b", "a", "b", None, "c", "a"], score=[0.0] * 6)
    train.save_to_disk(tmp_path / "d")
    parts = read(tmp_path / "d", label="kind")
    assert parts.classes == ("a", "b", "c")
    assert parts.train.target.tolist() == [1, 0, 1, -100, 2, 0]
    with pytest.raises(KDError, match=r"data\.label: there is no column 'kinds'; there are image, label, kind"):
        read(tmp_path / "d", label="kinds")
    train.remove_columns(["label"]).save_to_disk(tmp_path / "e")
    with pytest.raises(KDError, match=r"label: the column is not known: no column is of such a kind.*\n.*`label: COL"):
        read(tmp_path / "e")


def test_two_columns_of_classes_need_a_name(tmp_path: Path) -> None:
    train, _ = table()
    fine = train.add_column("fine_label", [0] * 6).cast_column("fine_label", datasets.ClassLabel(names=["x", "y"]))
    fine.rename_column("label", "coarse_label").save_to_disk(tmp_path / "cifar100")
    assert read(tmp_path / "cifar100").classes == ("x", "y")
    both = fine.rename_columns({"label": "first", "fine_label": "second"})
    both.save_to_disk(tmp_path / "d")
    with pytest.raises(KDError, match="first and second may be it"):
        read(tmp_path / "d")


def test_what_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table()[0].save_to_disk(tmp_path / "d")
    datasets.DatasetDict({"test": table()[0]}).save_to_disk(tmp_path / "test_only")
    (tmp_path / "empty").mkdir()
    with pytest.raises(KDError, match="has no training split; it has test"):
        read(tmp_path / "test_only")
    with pytest.raises(KDError, match="is not a folder of data that datasets reads"):
        read(tmp_path / "empty")

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(KDError, match=r"data\.hub: the hub does not answer, and no copy of me/mine is h.*\n.*a folder"):
        read("me/mine")
    assert data_pins(DataSpec(hub="me/mine")) == []
    with pytest.raises(KDError, match="is neither a folder nor a name on the hub"):
        read("../some/where")


CONFIG = """
task: image_classification
data: {hub: images}
models: {student: {arch: cnn, in_channels: 3}}
stages:
  train: {steps: 2, batch_size: 4, optimizer: !call:torch.optim.SGD {lr: 0.1}, losses: {ce: {loss: cross_entropy}}}
"""


def test_a_run_on_a_folder_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project").mkdir()
    datasets.DatasetDict({"train": table(20)[0], "test": table(4)[0]}).save_to_disk(tmp_path / "project" / "images")
    (tmp_path / "project" / "a.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.load("project/a.yaml", overrides=["data.workers=0"])
    assert len(experiment.check()) == 1  # the shape of its images
    assert experiment.train().samples == 4


# -- tables


def files(folder: Path) -> None:
    """Six images, and tables of them."""
    (folder / "photos").mkdir()
    for row, image in enumerate(table()[1]):
        Pictures.fromarray(image).save(folder / "photos" / f"{row}.png")
    lines = [f"photos/{row}.png,{'' if row == 5 else ['dog', 'cat'][row % 2]}" for row in range(6)]
    (folder / "train.csv").write_text("\n".join(["image,label", *lines]))
    (folder / "test.csv").write_text("image,label\nphotos/0.png,dog")


def test_tables_of_files_and_classes(tmp_path: Path) -> None:
    files(tmp_path)
    spec = {"root": str(tmp_path), "files": {"train": "train.csv", "test": "test.csv"}}
    parts = DataSpec(**spec).read()
    assert parts.classes == ("cat", "dog")
    assert parts.train.target.tolist() == [1, 0, 1, 0, 1, -100]
    assert np.array_equal(np.asarray(parts.test.images[0][0]), table()[1][0])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("path,label\na.png,cat", r"data\.image: .*there is no column 'image'\n.*`image: COLUMN`, one of path, label"),
        ("image,label\nphotos/9.png,cat\nphotos/1.png,dog", r"there is no file .*photos/9\.png"),
        ("image,label\nphotos/1.png,cat", r"data\.label: .*has fewer than two classes"),
        ("image,label", "holds no row"),
        ("image,label\n,cat", "row 2 has no image or no label cell"),
        (
            "image,label,w\nphotos/1.png,a,1\nphotos/2.png,b,-1",
            r"data\.weight: .*row 3: '-1' is not a number",
        ),
        ("image,label,v\nphotos/1.png,a,1\nphotos/2.png,b,1", r"data\.weight: .*there is no column 'w'"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, content: str, told: str) -> None:
    files(tmp_path)
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(KDError, match=told):
        DataSpec(root=str(tmp_path), files={"train": "train.csv"}, weight="w" if "label," in content else None).read()


def test_weights_of_samples_stay_with_them(tmp_path: Path) -> None:
    files(tmp_path)
    rows = [f"photos/{row}.png,{'ab'[row % 2]},{row / 2}" for row in range(6)]
    (tmp_path / "train.csv").write_text("\n".join(["image,label,w", *rows]))
    train = DataSpec(root=str(tmp_path), files={"train": "train.csv"}, weight="w").read().train
    assert train.weights.tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    (tmp_path / "photos" / "1.png").write_bytes(b"no image")
    kept, _ = without_unreadable(train)
    assert kept.take(torch.tensor([4, 1])).weights.tolist() == [2.5, 1]
