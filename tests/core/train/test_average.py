"""The moving average of a student's weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kd_core.train.average import MovingAverage


def student() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_is_pytorchs_bit_for_bit_and_goes_on_from_its_state() -> None:
    model = student()
    theirs, ours = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)), MovingAverage(model, 0.9)
    for step in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape))
            model(torch.randn(5, 3))
        theirs.update_parameters(model)
        ours.update(model)
        if step == 1:
            resumed = MovingAverage(student(), 0.9)
            resumed.load_state_dict(ours.state_dict())
            ours = resumed
    for key, value in ours.module.state_dict().items():
        assert torch.equal(value, theirs.module.state_dict()[key])
