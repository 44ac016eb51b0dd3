"""A number of classes that only reading the data tells is no mismatch with a teacher's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd_core.errors import KDError
from kd_core.experiment import Experiment

CONFIG = """
task: image_classification
data: {name: image_folder, root: data, size: 16, workers: 0, augment: none}
models: {student: {arch: cnn, width: 2, in_channels: 3}}
stages:
  train:
    epochs: 1
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""
DISTILL = ["models.teacher={run: runs/teacher}", "stages.train.losses.kd={loss: kd}"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    for split, count in (("train", 6), ("val", 2)):
        for name in ("ant", "bee", "cow"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    Experiment.load(path).train(tmp_path / "runs" / "teacher")
    return path


def test_a_teacher_of_the_same_folder_is_followed(config: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(config, overrides=DISTILL)
    assert experiment.check() == []
    assert experiment.train(tmp_path / "runs" / "student").samples == 6
    assert experiment.describe_data()[0] == "classes: 3 (ant, bee, cow)"


def test_other_mistakes_are_found_all_the_same(config: Path) -> None:
    with pytest.raises(KDError) as caught:
        Experiment.load(config, overrides=[*DISTILL, "stages.train.losses.kd.student=student.layers"]).check()
    assert [problem.path for problem in caught.value.problems] == ["stages.train.losses.kd.student"]


def test_a_known_number_is_a_mismatch(config: Path) -> None:
    with pytest.raises(KDError, match=r"student \(2, 4\) and teacher \(2, 3\)"):
        Experiment.load(config, overrides=[*DISTILL, "data.num_classes=4"]).check()
