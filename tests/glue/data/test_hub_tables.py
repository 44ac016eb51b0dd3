"""Texts of the hub's data sets, from folders that datasets wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from kd_core.errors import KDError
from kd_glue.data.hub_tables import HubSource
from kd_glue.data.spec import DataSpec
from kd_glue.task import TextClassification

TEXTS = ["good", "bad", "fine", "dull"]


def save(folder: Path, **parts: Any) -> None:
    datasets.DatasetDict(parts).save_to_disk(folder)


def table(labels: list[Any], feature: Any, texts: list[str] = TEXTS, **more: Any) -> Any:
    features = datasets.Features({"text": datasets.Value("string"), "label": feature})
    made = datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)
    for name, cells in more.items():
        made = made.add_column(name, cells)
    return made


def read(folder: Path, **options: Any) -> Any:
    return DataSpec(hub=str(folder), **options).read()


NAMES = datasets.ClassLabel(names=["negative", "positive"])


def test_classes_that_are_declared(tmp_path: Path) -> None:
    others = {"validation": table([0] * 4, NAMES), "test": table([-1] * 4, NAMES)}
    save(tmp_path / "d", train=table([1, 0, 1, 0], NAMES), **others)
    parts = read(tmp_path / "d")
    assert parts.classes == ("negative", "positive")
    assert parts.train.target.tolist() == [1, 0, 1, 0]
    assert parts.val is not None
    assert parts.test is None
    assert DataSpec(hub=str(tmp_path / "d")).kind == "single_label_classification"
    source = type(DataSpec(hub=str(tmp_path / "d"))).source
    assert isinstance(source, HubSource)
    assert source.unlabelled is not None
    assert list(source.unlabelled(hub=str(tmp_path / "d"))) == ["test"]


def test_several_labels_of_a_text(tmp_path: Path) -> None:
    lists = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear", "calm"]))
    save(tmp_path / "d", train=table([[0], [1, 2], [], [2]], lists))
    parts = read(tmp_path / "d", problem="multi_label_classification")
    assert parts.classes == ("joy", "fear", "calm")
    assert np.array_equal(parts.train.target, [[1, 0, 0], [0, 1, 1], [0, 0, 0], [0, 0, 1]])
    with pytest.raises(KDError, match=r"data\.problem: the column 'label' holds lists.*\n.*multi_label_classification"):
        read(tmp_path / "d")


def test_columns_and_classes_that_are_named(tmp_path: Path) -> None:
    plain = datasets.Value("string")
    save(tmp_path / "d", train=table(["b", "a", "b", "a"], plain, other=["x"] * 4))
    assert read(tmp_path / "d", label="label").classes == ("a", "b")
    assert read(tmp_path / "d", text=["text", "other"], labels=["b", "a"]).train.target.tolist() == [0, 1, 0, 1]
    with pytest.raises(KDError, match=r"data\.text: there is no column 'txt'"):
        read(tmp_path / "d", text="txt")
    numbers = table([0.5, 1.0, 2.0, 3.0], datasets.Value("float32"))
    save(tmp_path / "e", train=numbers)
    assert read(tmp_path / "e", problem="regression").train.target.shape == (4, 1)


def test_go_emotions_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lists = datasets.Sequence(datasets.ClassLabel(names=["joy", "fear"]))
    part = table([[0], [1], [0, 1], [1]], lists).rename_column("label", "labels")
    asked: list[Any] = []
    monkeypatch.setattr("kd_glue.data.hub_tables.load_parts", lambda *args, **_: asked.append(args) or {"train": part})
    data = DataSpec(name="go_emotions")
    assert data.read().classes == ("joy", "fear")
    assert asked == [("google-research-datasets/go_emotions", "simplified", None)]
    assert TextClassification().info(data).problem_type == "multi_label_classification"
