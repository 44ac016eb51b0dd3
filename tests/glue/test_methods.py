"""Methods on texts: those that compare what the classifier takes, the layers, or the logits, fit BERTs of two sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.config import Policy, loads
from kd_core.experiment import Experiment

EXAMPLE = Path(__file__).parents[2] / "configs" / "glue" / "example"
CONFIG = f"""
task: glue
data:
  files: {{train: {EXAMPLE}/train.tsv, val: {EXAMPLE}/val.tsv}}
  text: sentence
  label: label
  labels: [negative, positive]
  max_length: 32
models:
  student: {{hub: {EXAMPLE}/tiny, weights: null}}
  teacher: {{hub: {EXAMPLE}/tiny, hidden_size: 64, intermediate_size: 128, weights: null}}
stages:
  distill:
    steps: 2
    batch_size: 16
    method: METHOD
    optimizer: !call:torch.optim.SGD {{lr: 1.0e-3}}
"""


@pytest.mark.parametrize("name", ["pkt", "rkd", "sp", "cs_kd", "kd_smoothed_teacher"])
def test_a_method_fits_texts(name: str) -> None:
    experiment = Experiment.planned(loads(CONFIG.replace("METHOD", name)), Policy())
    assert experiment.check(strict=True) == []
