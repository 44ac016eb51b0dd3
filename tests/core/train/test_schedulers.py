"""Learning rates with a rise at first: those of torchvision's reference scripts, step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

from kd_core.errors import KDError
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
