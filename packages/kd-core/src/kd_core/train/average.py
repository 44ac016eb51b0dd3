"""The moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MovingAverage(nn.Module):
    """A copy of a model whose parameters are their exponential moving average, and whose buffers are the model's.

    The first update takes the model as it is. Values are those of ``torch.optim.swa_utils.AveragedModel`` with
    ``get_ema_multi_avg_fn``, which copies its count to a GPU in every step and waits for that.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Add the model as it is now: each average is ``decay`` times itself and the rest of the new value."""
        averages, values = ([item.detach() for item in one.parameters()] for one in (self.module, model))
        if self.updates:
            torch._foreach_lerp_(averages, values, 1 - self.decay)
        else:
            torch._foreach_copy_(averages, values)
        for average, value in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(value)
        self.updates += 1

    def get_extra_state(self) -> int:
        """The number of updates."""
        return self.updates

    def set_extra_state(self, state: int) -> None:
        """Go on after so many updates."""
        self.updates = state
