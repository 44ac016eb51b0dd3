"""What `generation` masks is the same however a batch is cut, or the cut is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd_core.errors import KDError
from kd_core.experiment import Experiment

CONFIG = """
task: image_classification
data: {name: digits, limit: 20, val: 0, augment: none, workers: 0}
models:
  student: !call:torch.nn.Sequential
    - !call:torch.nn.Conv2d [1, 2, 3]
    - !call:torch.nn.Flatten {}
    - !call:torch.nn.Linear [72, 10]
  teacher: !call:torch.nn.Conv2d [1, 3, 3]
adapters:
  generated: {module: generation, inputs: INPUTS, match: teacher.output}
stages:
  train:
    steps: 3
    batch_size: 8
    losses: {mgd: {loss: mgd, student: adapters.generated, teacher: teacher.output, weight: 0.01}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


def experiment(folder: Path, inputs: str, steps: int) -> Experiment:
    torch.set_num_threads(1)
    path = folder / "config.yaml"
    path.write_text(CONFIG.replace("INPUTS", inputs))
    return Experiment.load(path, overrides=[f"stages.train.accumulation_steps={steps}"])


def test_micro_batches_are_masked_as_their_batch(tmp_path: Path) -> None:
    students = []
    for steps in (1, 3):
        result = experiment(tmp_path, "[student.0, batch.index]", steps).train(tmp_path / f"run{steps}")
        assert result.run is not None
        students.append(load_file(result.run / "student" / "model.safetensors"))
    whole, parts = students
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_masks_by_row_refuse_micro_batches(tmp_path: Path) -> None:
    experiment(tmp_path, "student.0", 1).check()
    with pytest.raises(KDError, match="the adapter 'generated' relates the samples of a batch"):
        experiment(tmp_path, "student.0", 2).check()
