"""Adapters and losses that need the samples of all processes, and metrics that cannot be gathered."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.e2e.test_processes import launch
from torch import Tensor, nn

from kd_core.config.runtime import RuntimeSpec
from kd_core.data.batch import SHARED, Batch, DatasetInfo, Split
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.task import Metrics, Task
from kd_core.train import evaluate

MODULE = '''
"""An adapter that relates the samples of a batch to each other."""

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, over_batch


@over_batch
class Centred(nn.Module):
    """Features (B, D) without the mean over the batch, weighed by how far the samples lie apart."""

    def __init__(self, width):
        super().__init__()
        self.fit = nn.Linear(width, 4)

    def forward(self, features, *, scale):
        fitted = self.fit(features)
        return {"centred": fitted - fitted.mean(dim=0), "spread": torch.cdist(scale, scale).mean(dim=1)}


@ADAPTERS("centred")
def centred(inputs: dict[str, Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    """(B, D) and (B, K) -> centred (B, 4), spread (B,)."""
    return Centred(inputs["features"].shape[1])
'''
CONFIG = """
task: image_classification
imports: [whole_batch]
data: {name: digits, limit: 101, augment: none}
models:
  student: !call:torch.nn.Sequential
    - !call:torch.nn.Flatten {}
    - !call:torch.nn.Linear [64, 16]
    - !call:torch.nn.Tanh {}
    - !call:torch.nn.Linear [16, 10]
adapters:
  centred: {module: centred, inputs: {features: student.1, scale: student.output}}
  plain: {module: projector, inputs: adapters.centred/centred, out_features: 3}
stages:
  train:
    epochs: 2
    batch_size: 25
    losses:
      ce: {loss: cross_entropy}
      code: {loss: norm_penalty, input: adapters.plain, p: 2.0, weight: 0.1}
      spread: {loss: identity, value: adapters.centred/spread, mean_over: samples, weight: 0.1}
      apart: {loss: rkd_distance, student: adapters.centred/centred, teacher: student.output, detach: teacher}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""


@pytest.mark.slow
def test_two_processes_give_an_adapter_all_samples(config: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "whole_batch.py").write_text(MODULE)
    path = config(CONFIG)
    Experiment.load(path, trust=["whole_batch"]).train(tmp_path / "one")
    both = launch("train", path, "--out", tmp_path / "two", "--trust", "whole_batch")
    _, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    runs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two")]
    for one, two in zip(*(map(json.loads, lines) for lines in runs), strict=True):
        if "train" in one:
            assert two["train"] == pytest.approx(one["train"], rel=1e-4)
    weights = [load_file(tmp_path / name / "student" / "model.safetensors") for name in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])


class Lists(nn.Module):
    """One value a sample, of different lengths, in a list or in a mapping; or a pair of tensors."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, images: Tensor) -> Any:
        values = [image[: row + 1] for row, image in enumerate(images)]
        return {"list": values, "mapping": {"boxes": values}, "pair": (images, images)}[self.form]


class Twice(Split):
    """The same sample for every position."""

    def __len__(self) -> int:
        return 3

    def batches(self, order: Any, *, epoch: int, seed: int, augment: bool) -> Any:
        for positions in order:
            yield Batch({SHARED: torch.ones(len(positions), 4)}, torch.zeros(len(positions)), positions)


@pytest.mark.parametrize(
    ("form", "reduces", "refused"),
    [("list", False, True), ("mapping", False, True), ("pair", False, False), ("list", True, False)],
)
def test_lists_that_processes_cannot_gather_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, form: str, reduces: bool, refused: bool
) -> None:
    class Counting(Metrics):
        pass

    class Listing(Task):
        name = "listing"

        def metrics(self, info: DatasetInfo) -> Metrics:
            return Counting()

    monkeypatch.setattr(Counting, "reduces", reduces)
    runtime, model = Runtime(RuntimeSpec(device="cpu")), Lists(form)
    arguments: dict[str, Any] = {"spec": None, "data": None, "info": DatasetInfo(), "runtime": runtime}
    evaluate.check_gatherable(Listing(), model, "student", Twice(), **arguments)  # one process gathers nothing
    monkeypatch.setattr(evaluate, "world_size", lambda: 2)
    if refused:
        with pytest.raises(KDError, match="outputs of task 'listing' are lists of one value a sample"):
            evaluate.check_gatherable(Listing(), model, "student", Twice(), **arguments)
    else:
        evaluate.check_gatherable(Listing(), model, "student", Twice(), **arguments)
    assert model.training
