"""A SegFormer of transformers as teacher and student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kd_core
from kd_core.experiment import Experiment

transformers = pytest.importorskip("transformers")

CONFIG = """
task: semantic_segmentation
data: {name: scenes, root: data, limit: 8, size: 32, crop: 32}
models:
  student: {hub: segformer, weights: null}
  teacher: {hub: segformer, new_head: true}
stages:
  distill:
    steps: 1
    batch_size: 4
    optimizer: !call:torch.optim.SGD {lr: 0.01}
    losses: {ce: {loss: cross_entropy}, cwd: {loss: cwd}}
"""


def test_a_segformer_learns_and_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "decoder_hidden_size": 8}
    config = transformers.SegformerConfig(**sizes, num_attention_heads=[1, 1, 2, 2])
    transformers.SegformerForSemanticSegmentation(config).save_pretrained("segformer")
    Path("a.yaml").write_text(CONFIG)
    experiment = Experiment.load("a.yaml")
    experiment.check(strict=True)
    student = kd_core.load(str(experiment.train().run))
    assert student(torch.zeros(32, 48, 3, dtype=torch.uint8).numpy())["out"].shape[-2:] == (32, 48)
