"""A loss that a model has computed by itself, on parts of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.losses import identity
from kd_core.losses.outputs import unknown_mean
from kd_core.losses.reduction import count_of

CONFIG = """
task: image_classification
data: {name: digits, limit: 20, val: 0, augment: none, workers: 0}
models: {student: {arch: cnn, width: 2, depth: 1}}
adapters:
  own: {module: !call:torch.nn.L1Loss {}, inputs: [student.output, student.output]}
stages:
  train:
    steps: 1
    batch_size: 8
    losses: {own: {loss: identity, value: WIRE}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


def test_the_mean_over_what_a_mask_leaves() -> None:
    value, mask = torch.tensor([[1.0, 2.0], [3.0, float("nan")]]), torch.tensor([[1, 1], [1, 0]])
    assert identity(value, mask).item() == 2
    assert identity(value, torch.zeros(2, 2)).item() == 0
    assert identity(torch.tensor(5.0), mask).item() == 5
    count: Callable[..., torch.Tensor] | None = count_of(identity)
    assert count is not None
    assert count(mask=mask).item() == 3
    with pytest.raises(KDError, match=r"mask \(2,\) does not have the shape of value \(2, 2\)"):
        identity(value, torch.ones(2))


@pytest.mark.parametrize(
    ("value", "options", "refused"),
    [
        (torch.zeros(4, 3), {}, False),
        (torch.zeros(()), {}, True),
        (torch.zeros(3), {}, True),
        (torch.zeros(()), {"mean_over": "samples"}, False),
        (torch.zeros(()), {"mask": torch.ones(4, 7)}, False),
    ],
)
def test_a_number_must_say_what_it_is_a_mean_over(value: torch.Tensor, options: dict[str, Any], refused: bool) -> None:
    assert (unknown_mean(4, value, **options) is not None) == refused


@pytest.mark.parametrize(
    ("term", "refused"), [("", True), (", mean_over: samples", False), (", mask: batch.target", False)]
)
def test_only_a_run_in_parts_asks(tmp_path: Path, term: str, refused: bool) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("WIRE}", f"adapters.own{term}}}"))
    assert Experiment.load(path).check() == []
    parts = Experiment.load(path, overrides=["stages.train.accumulation_steps=2"])
    if refused:
        with pytest.raises(KDError, match=r"losses.own: nothing says what the value \(\) is a mean over"):
            parts.check()
    else:
        assert parts.check() == []
