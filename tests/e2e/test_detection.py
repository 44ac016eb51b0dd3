"""Object detection from a config: trained, distilled, stopped and resumed, in parts of a batch and in processes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tests.e2e.conftest import student_bytes
from tests.e2e.test_processes import launch
from tests.e2e.test_resume import records, train_until

from kd_core.errors import KDError
from kd_core.experiment import Experiment, Result, resume
from kd_vision.cli import main

DETECTOR = (
    "backbone: cnn, levels: [2, 3], extra_levels: 0, anchor_sizes: [24, 40], norm: group, min_size: 48, max_size: 72"
)
CONFIG = f"""
task: object_detection
data: {{name: scenes, limit: {{train: 8, val: 4}}, workers: 0, augment: [flip]}}
models:
  student: {{arch: retinanet, width: 4, pyramid_channels: 8, head_norm: group, {DETECTOR}}}
  teacher: {{arch: retinanet, width: 8, pyramid_channels: 16, head_norm: group, weights: null, {DETECTOR}}}
adapters:
  fit: {{module: projector, inputs: student.backbone, match: teacher.backbone, each: true}}
stages:
  distill:
    epochs: 1
    batch_size: 4
    losses:
      detector: {{loss: identity, value: student.output/loss, mean_over: samples}}
      pyramid: {{loss: mse, student: adapters.fit, teacher: teacher.backbone, weight: 0.1}}
    optimizer: !call:torch.optim.SGD {{lr: 0.01, momentum: 0.9}}
    max_grad_norm: 10.0
"""
COCO = [
    *("data.name=coco2017", "data.limit={train: 4, val: 3}", "data.augment=null", "stages.distill.batch_size=2"),
    *("models.student.max_size=96", "models.teacher.max_size=96"),
]
ONE_SIZE = [
    "data.group_by_aspect_ratio=null",
    "data.augment=[{op: large_scale_jitter, size: 64, scale: [0.9, 1.1]}]",
    *(f"models.{name}.min_size=64" for name in ("student", "teacher")),
]
"""Else images are padded to the largest of a batch, or of a part of it, and group norms see the padding."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "detection.yaml"
    path.write_text(CONFIG)
    return path


def trained(config: Path, out: Path, *overrides: str) -> Result:
    return Experiment.load(config, overrides=overrides).train(out)


def test_a_student_is_distilled_and_scored(config: Path, tmp_path: Path) -> None:
    result = trained(config, tmp_path / "run")
    assert {"ap", "ap50", "ar100", "ap/disc"} <= result.metrics.keys()
    [losses] = [record["train"] for record in records(tmp_path / "run") if "train" in record]
    assert losses["detector"] > 0
    assert losses["pyramid"] > 0
    done = CliRunner().invoke(main, ["eval", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("kill_at", [1, 2, 3])
def test_a_killed_run_ends_the_same(
    kill_at: int, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["checkpoint.every_steps=1", "stages.distill.epochs=2"]
    whole = trained(config, tmp_path / "whole", *given)
    train_until(kill_at, config, tmp_path / "killed", given, monkeypatch)
    assert student_bytes(resume(tmp_path / "killed").run) == student_bytes(whole.run)


def test_parts_of_a_batch_are_the_batch(config: Path, tmp_path: Path) -> None:
    whole = trained(config, tmp_path / "whole", *ONE_SIZE)
    parts = trained(config, tmp_path / "parts", *ONE_SIZE, "stages.distill.accumulation_steps=2")
    assert whole.run is not None
    assert parts.run is not None
    first, second = (load_file(run / "student" / "model.safetensors") for run in (whole.run, parts.run))
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5


def test_two_processes_train_and_score(config: Path, tmp_path: Path) -> None:
    both = launch(
        "train", config, "--out", tmp_path / "two", *(part for value in ONE_SIZE for part in ("--set", value))
    )
    _, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    alone = trained(config, tmp_path / "alone", *ONE_SIZE)
    assert alone.run is not None
    first, second = (load_file(run / "student" / "model.safetensors") for run in (alone.run, tmp_path / "two"))
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-3


def test_fast_trains(config: Path, tmp_path: Path) -> None:
    result = trained(config, tmp_path / "run", "runtime=fast")
    assert math.isfinite(result.metrics["ap"])


def test_a_model_that_finds_masks_needs_data_with_masks(config: Path) -> None:
    given = ["models.student.arch=mask_rcnn", "models.student.head_norm=null"]
    with pytest.raises(KDError) as caught:
        Experiment.load(config, overrides=given).check()
    assert caught.value


@pytest.mark.realdata
def test_real_images_are_learned_from(config: Path, real_data: Path, tmp_path: Path) -> None:
    result = trained(config, tmp_path / "run", *COCO, f"data.root={real_data / 'coco2017_subset'}")
    assert "ap/person" in result.metrics
    assert torch.isfinite(torch.tensor(result.metrics["ap"]))
