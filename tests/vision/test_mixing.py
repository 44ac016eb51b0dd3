"""MixUp and CutMix: what becomes of images and targets, for all models alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kd_vision.mixing  # noqa: F401  which registers views
from kd_core.data.batch import SHARED, Batch
from kd_core.data.views import VIEWS
from kd_core.errors import KDError
from kd_core.experiment import Experiment


def batch(target: list[int], **inputs: torch.Tensor) -> Batch:
    index = torch.arange(len(target))
    return Batch(dict(inputs) or {SHARED: torch.rand(len(target), 3, 8, 8)}, torch.tensor(target), index)


def test_images_and_targets_are_mixed_alike() -> None:
    before = batch([0, 1, 2])
    images = before.inputs[SHARED]
    after = VIEWS.get("mixup")(before, num_classes=4, alpha=1.0)
    share = float(after.target[0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(after.target[1], torch.tensor([1 - share, share, 0, 0]))
    torch.testing.assert_close(after.inputs[SHARED], share * images + (1 - share) * images.roll(1, 0))


def test_a_box_is_cut_out_for_every_model() -> None:
    torch.manual_seed(3)
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 32, 32)
    before = batch([0, 1, 0, 1], student=images, teacher=images[..., ::2, ::2])
    after = VIEWS.get("cutmix")(before, num_classes=2)
    for name in ("student", "teacher"):
        own = (after.inputs[name][1] == 1).float().mean()
        assert float(after.target[1, 1]) == pytest.approx(float(own), abs=0.08)
        assert set(after.inputs[name][1].unique().tolist()) == {0.0, 1.0}


def test_the_run_draws_them() -> None:
    torch.manual_seed(0)
    first = [VIEWS.get("mixup_or_cutmix")(batch([0, 1]), num_classes=2).target for _ in range(3)]
    torch.manual_seed(0)
    second = [VIEWS.get("mixup_or_cutmix")(batch([0, 1]), num_classes=2).target for _ in range(3)]
    assert all(map(torch.equal, first, second))
    assert not torch.equal(first[0], first[1])


def test_labels_that_cannot_be_mixed() -> None:
    with pytest.raises(KDError, match="with labels and images without"):
        VIEWS.get("mixup")(batch([0, -100]), num_classes=2)
    with pytest.raises(KDError, match="num_classes: the batch has the class 5, and num_classes is 3"):
        VIEWS.get("mixup")(batch([0, 5]), num_classes=3)
    unlabelled = batch([-100, -100])
    after = VIEWS.get("mixup")(unlabelled, num_classes=2)
    assert torch.equal(after.target, unlabelled.target)
    assert not torch.equal(after.inputs[SHARED], unlabelled.inputs[SHARED])


CONFIG = """
task: image_classification
data: {name: digits, limit: 40, val: 0}
models: {student: {arch: cnn}, teacher: {arch: cnn, weights: null}}
stages:
  distill:
    steps: 2
    batch_size: 8
    views: {view: mixup_or_cutmix, num_classes: 10}
    losses: {ce: {loss: cross_entropy, label_smoothing: 0.1}, kd: {loss: kd}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


def test_a_run_on_mixed_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(CONFIG)
    experiment = Experiment.load("a.yaml")
    experiment.check(strict=True)
    assert experiment.train().samples > 0
