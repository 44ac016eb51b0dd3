"""A run whose student's folder gives back another model says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kd_core.experiment import Experiment
from kd_core.models.registry import MODELS
from kd_vision.models import Cnn

DIGITS = """
task: image_classification
data: {name: digits, limit: 60, augment: none}
models:
  student: {arch: rebuilt_test}
stages:
  train:
    epochs: 1
    batch_size: 32
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""


@pytest.mark.parametrize(
    ("again", "fault"),
    [
        (1.0, ""),
        (2.0, "gives other outputs than the trained student"),
        (None, "cannot be run again: ValueError: twice"),
    ],
)
def test_another_model_is_a_warning(
    again: float | None, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an architecture keeps outside its weights, and makes anew in another way."""
    torch.set_num_threads(1)
    made: list[Cnn] = []

    def build() -> Cnn:
        model = Cnn(width=2, depth=1)
        factor = again if any(not each.fc.weight.is_meta for each in made) else 1.0
        if factor is None:
            raise ValueError("twice")
        model.register_forward_hook(lambda module, args, output: output * factor)
        made.append(model)
        return model

    monkeypatch.setitem(MODELS._items, "rebuilt_test", build)
    (tmp_path / "c.yaml").write_text(DIGITS)
    result = Experiment.load(tmp_path / "c.yaml").train(tmp_path / "run")
    told = [f"the student's folder does not stand alone: the model in it {fault}"] if fault else []
    assert result.warnings == told
