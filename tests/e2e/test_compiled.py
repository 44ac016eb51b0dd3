"""Compiled models see the weights of now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kd_core.experiment import Experiment
from kd_core.train.loop import StageRunner

CONFIG = """
task: image_classification
data: {name: digits, limit: 64, val: 0, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 1}
  peer: {arch: cnn, width: 4, depth: 1, trainable: true}
runtime: {compile: [peer]}
stages:
  before:
    epochs: 1
    batch_size: 64
    train: [student]
    losses: {kd: {loss: kd, teacher: peer.output}}
    optimizer: !call:torch.optim.SGD {lr: 0.5}
  between:
    train: [peer]
    losses: {ce: {loss: cross_entropy, student: peer.output}}
  after:
    train: [student]
    losses: {kd: {loss: kd, teacher: peer.output}}
"""


@pytest.mark.slow
def test_a_model_trained_between_two_frozen_stages_is_run_with_its_new_weights(
    config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its compiled code holds weights as constants; that of the first stage must not serve the third."""
    pairs = []
    before = StageRunner.run

    def look(self: StageRunner) -> None:
        if "peer" in self.stage.frozen:
            plan, train = self.context.components.plan, self.stage.splits.train
            raw = next(iter(train.batches([torch.arange(64)], epoch=0, seed=0, augment=False)))
            images = plan.task.prepare(raw, plan.inputs, self.stage.data, training=True).for_model("peer")
            with self.runtime.inference():
                compiled = self.stage.frozen["peer"](images).output
            with self.runtime.compiled(usual=False):
                pairs.append((compiled, self.stage.frozen["peer"](images).output))
        before(self)

    monkeypatch.setattr(StageRunner, "run", look)
    Experiment.load(config(CONFIG)).train(tmp_path / "run")
    assert len(pairs) == 2
    assert all(torch.allclose(compiled, eager, atol=1e-5) for compiled, eager in pairs)
    assert not torch.allclose(pairs[0][0], pairs[1][0], atol=1e-3)
