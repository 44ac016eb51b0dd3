"""What captures cost: a training step with taps against the same step without.

::

    python -m pytest tests/bench/bench_hooks.py --benchmark-only

``small`` has steps of a fraction of a millisecond and so shows the hooks' own time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper

TAPS = {
    "resnet18": [Tap("layer1.0.conv2", "in"), Tap("layer1"), Tap("layer2"), Tap("layer3"), Tap("layer4"), Tap("")],
    "small": [Tap("0"), Tap("2", "in"), Tap("2"), Tap("")],
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A model and a batch for it."""
    if name == "resnet18":
        return resnet18(num_classes=100), torch.randn(16, 3, 32, 32)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)), torch.randn(256, 64)


@pytest.mark.parametrize("taps", ["bare", "tapped"])
@pytest.mark.parametrize("name", TAPS)
def test_step(benchmark: Any, name: str, taps: str) -> None:
    benchmark.group = name
    model, batch = made(name)
    wrapper = ForwardWrapper(model, TAPS[name])
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    forward = model if taps == "bare" else lambda x: wrapper(x).output
    if taps == "bare":
        wrapper.release()

    def step() -> None:
        optimizer.zero_grad()
        forward(batch).square().mean().backward()
        optimizer.step()

    step()  # the probe pass
    benchmark(step)
