"""Modules of torch described by the calls that make them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kd_core.config import Builder, Policy
from kd_core.models.description import call_of


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(3, 2),
        nn.Linear(3, 2, bias=False),
        nn.Conv2d(4, 6, (3, 1), stride=2, padding=(1, 0), groups=2, bias=False),
        nn.BatchNorm2d(5, eps=1e-3, affine=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Dropout(0.2)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_module_is_made_again_from_its_call(module: nn.Module) -> None:
    call = call_of(module)
    assert call is not None
    made = Builder(Policy()).build(call)
    assert repr(made) == repr(module)
    made.load_state_dict(module.state_dict())


def test_what_no_call_makes_has_none() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(2, 2)
    hooked.register_forward_hook(lambda module, args, output: output)
    named = nn.Sequential()
    named.add_module("first", nn.ReLU())
    changed = nn.Linear(2, 2)
    changed.weight = nn.Parameter(torch.zeros(3, 3))
    assert [call_of(module) for module in (Own(2, 2), hooked, named, changed)] == [None] * 4
