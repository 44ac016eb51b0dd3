"""Learning rates with a rise at first: those of torchvision's reference scripts, step by step."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from kd_core.config import Builder, Policy
from kd_core.config.schema import SchedulerSpec
from kd_core.config.syntax.load import loads
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.train.optim import build_scheduler
from kd_core.train.schedulers import WarmUpCosineLR, WarmUpMultiStepLR


def optimizer() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)


def reference(kind: type[Any], values: dict[str, Any], steps_per_epoch: int, epochs: int) -> list[float]:
    """The rates of torchvision's loop: one scheduler after each step of the first epoch, another after each epoch."""
    sgd, rates = optimizer(), []
    scheduler = kind(sgd, **values)
    for epoch in range(epochs):
        length = min(1000, steps_per_epoch - 1)
        rise = LinearLR(sgd, start_factor=0.001, total_iters=length) if epoch == 0 else None
        for _ in range(steps_per_epoch):
            rates.append(sgd.param_groups[0]["lr"])
            sgd.step()
            if rise is not None:
                rise.step()
        scheduler.step()
    return rates


def rates_of(scheduler: Any, sgd: torch.optim.SGD, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("steps_per_epoch", [7, 1200])
def test_steps_are_torchvisions(steps_per_epoch: int) -> None:
    sgd = optimizer()
    found = rates_of(
        WarmUpMultiStepLR(sgd, milestones=[2, 3], steps_per_epoch=steps_per_epoch), sgd, 4 * steps_per_epoch
    )
    assert found == pytest.approx(reference(MultiStepLR, {"milestones": [2, 3]}, steps_per_epoch, 4))


def test_a_cosine_is_torchvisions() -> None:
    sgd = optimizer()
    found = rates_of(WarmUpCosineLR(sgd, epochs=5, steps_per_epoch=9), sgd, 45)
    assert found == pytest.approx(reference(CosineAnnealingLR, {"T_max": 5}, 9, 5))
    sgd = optimizer()
    assert rates_of(WarmUpCosineLR(sgd, epochs=2, steps_per_epoch=3), sgd, 9)[-1] == 0


def test_a_state_goes_on_where_it_was() -> None:
    sgd = optimizer()
    whole = rates_of(WarmUpMultiStepLR(sgd, milestones=[1], steps_per_epoch=4), sgd, 8)
    first, second = optimizer(), optimizer()
    stopped = WarmUpMultiStepLR(first, milestones=[1], steps_per_epoch=4)
    rates_of(stopped, first, 3)
    resumed = WarmUpMultiStepLR(second, milestones=[1], steps_per_epoch=4)
    resumed.load_state_dict(stopped.state_dict())
    second.load_state_dict(first.state_dict())
    assert rates_of(resumed, second, 5) == whole[3:]


def test_an_epoch_of_one_step_has_no_rise() -> None:
    sgd = optimizer()
    assert rates_of(WarmUpMultiStepLR(sgd, milestones=[], steps_per_epoch=1), sgd, 2) == [0.02, 0.02]


def test_a_wrong_rise_is_an_error() -> None:
    with pytest.raises(KDError, match=r"start in \[0, 1\], not 1000 and 2"):
        WarmUpMultiStepLR(optimizer(), milestones=[], steps_per_epoch=9, start=2)


CHAIN = """
call: !call:torch.optim.lr_scheduler.SequentialLR
  schedulers:
    - !call:torch.optim.lr_scheduler.LinearLR {start_factor: 0.1, total_iters: 4}
    - !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: 6}
  milestones: [4]
"""
WARMED = """
call: !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: 6}
warmup: 4
warmup_start: 0.1
"""


def built(text: str) -> tuple[Any, torch.optim.SGD]:
    """A scheduler of a config, and its optimiser."""
    sgd = optimizer()
    spec = SchedulerSpec.model_validate(loads(text, "a.yaml").data)
    return build_scheduler(spec, sgd, Builder(Policy()), "scheduler")[0], sgd


def test_schedulers_of_schedulers_and_a_warm_up_are_torchs() -> None:
    expected = rates_of(*built(CHAIN), 10)
    assert expected[:5] == pytest.approx([0.002, 0.0065, 0.011, 0.0155, 0.02])
    assert expected[9] == pytest.approx(0.02 * (1 + math.cos(math.pi * 5 / 6)) / 2)
    assert rates_of(*built(WARMED), 10) == expected
    chained = CHAIN.replace("SequentialLR", "ChainedScheduler").replace("  milestones: [4]\n", "")
    assert rates_of(*built(chained), 2) == pytest.approx([0.002, 0.0065 * (1 + math.cos(math.pi / 6)) / 2], rel=1e-3)


def test_a_plateau_cannot_begin_later() -> None:
    text = WARMED.replace("CosineAnnealingLR {T_max: 6}", "ReduceLROnPlateau {}")
    with pytest.raises(KDError, match=r"scheduler\.warmup: ReduceLROnPlateau follows the validation"):
        built(text)


def test_a_check_looks_into_schedulers_of_schedulers(tmp_path: Path) -> None:
    stage = CHAIN.replace("total_iters", "total_iter").replace("\n", "\n      ")
    (tmp_path / "a.yaml").write_text(CONFIG + "    scheduler:" + stage)
    with pytest.raises(KDError, match=r"scheduler\.call\.schedulers\.0\.total_iter: .*has no parameter 'total_iter'"):
        Experiment.load(tmp_path / "a.yaml")


CONFIG = """
task: image_classification
data: {name: digits}
models: {student: {arch: cnn}}
stages:
  train:
    epochs: 1
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""
