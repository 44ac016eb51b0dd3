"""Every method's preset trains, each of its stages two steps, on small images."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.config.syntax.methods import METHODS
from kd_core.experiment import Experiment

CONFIG = """
task: image_classification
data: {name: digits, limit: 240, val: 40}
models:
  student: {arch: cifar-resnet, depth: 8, in_channels: 1}
  teacher: TEACHER
stages:
  distill:
    steps: 2
    batch_size: 32
    optimizer: !call:torch.optim.SGD {lr: 0.01, momentum: 0.9}
"""
TEACHER = "{arch: cifar-resnet, depth: 14, in_channels: 1, weights: null}"
SEVERAL = {"ebkd"}
"""Methods that need two teachers."""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS.names())
def test_a_preset_trains(method: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    teacher = f"[{TEACHER}, {TEACHER}]" if method in SEVERAL else TEACHER
    config.write_text(CONFIG.replace("TEACHER", teacher), encoding="utf-8")
    overrides = [f"stages.distill.method={method}"]
    for stage in Experiment.load(config, overrides=overrides).plan.stages:
        if stage.name != "distill":
            at = f"stages.{stage.name}"
            overrides += [f"{at}.steps=2", f"{at}.epochs=null", f"{at}.scheduler=null"]
    Experiment.load(config, overrides=overrides).train(tmp_path / "run")
    assert (tmp_path / "run" / "student").is_dir()
