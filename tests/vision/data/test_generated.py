"""Training without images of the data set, of which validation and test are left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from kd_core.data.batch import SHARED, Splits
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_vision.data.spec import DataSpec
from kd_vision.task import ImageClassification


def load(**values: object) -> Splits:
    return ImageClassification().load(DataSpec(**values), seed=0)


def test_no_training_image_is_left() -> None:
    splits = load(name="digits", generated=1000, val=100)
    [batch] = splits.train.batches([torch.tensor([0, 999])], epoch=0, seed=0, augment=True)
    assert len(splits.train) == 1000
    assert torch.equal(batch.inputs[SHARED], torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert batch.target.tolist() == [-100, -100]
    assert splits.train.fixed
    plain = load(name="digits", val=100)
    for ours, theirs in ((splits.val, plain.val), (splits.test, plain.test)):
        assert ours is not None
        assert theirs is not None
        assert ours.fingerprint == theirs.fingerprint
    assert splits.info.classes == plain.info.classes
    lines = splits.describe()
    assert "data: ".join(lines).count("no training image is used: a method makes 1,000 images an epoch instead") == 1
    assert not any("have no training sample" in line for line in lines)


def test_images_in_folders_have_a_size_that_the_config_tells(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 30)).save(tmp_path / split / name / "0.png")
    splits = load(name="image_folder", root=str(tmp_path), generated=5, size=16)
    [batch] = splits.train.batches([torch.arange(5)], epoch=0, seed=0, augment=True)
    assert batch.inputs[SHARED].shape == (5, 3, 16, 16)
    own = {"train": [(torch.zeros(3, 8, 8), 0), (torch.zeros(3, 8, 8), 1)]}
    with pytest.raises(KDError, match="needs images of one size"):
        load(dataset=own, generated=5, val=0, workers=0)


@pytest.mark.parametrize("other", [{"augment": "shift"}, {"labelled": 10}, {"limit": 10}, {"fraction": 0.5}])
def test_what_is_said_of_training_images_is_refused(other: dict[str, object]) -> None:
    with pytest.raises((ConfigError, ValueError), match="'generated' leaves no training image"):
        DataSpec(name="digits", generated=5, **other)


def test_a_stage_that_reads_the_images_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("""
task: image_classification
data: {name: digits, generated: 64, val: 0}
models: {student: {arch: cnn, width: 4}, teacher: {arch: cnn, width: 4, weights: null}}
stages:
  distill:
    epochs: 1
    batch_size: 16
    method: dafl
    optimizer: !call:torch.optim.SGD {lr: 0.1}
""")
    Experiment.load(path)
    with pytest.raises(KDError, match=r":3:.*data\.generated: the samples are empty, and .* runs student on them"):
        Experiment.load(path, overrides=["stages.distill.losses={ce: {loss: cross_entropy}}"])
