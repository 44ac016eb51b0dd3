"""What captures cost: a training step with taps against the same step without, in turn, in one run.

::

    python tests/bench/bench_hooks.py [--rounds 100] [--model resnet18|small]

Prints the mean processor time of each side's fastest quarter of steps, which other work disturbs least, and the ratio
of the two. ``small`` has steps of a fraction of a millisecond and so shows the hooks' own time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper

TAPS = {
    "resnet18": [Tap("layer1.0.conv2", "in"), Tap("layer1"), Tap("layer2"), Tap("layer3"), Tap("layer4"), Tap("")],
    "small": [Tap("0"), Tap("2", "in"), Tap("2"), Tap("")],
}


def make(name: str) -> tuple[nn.Module, Tensor]:
    """A model and a batch for it."""
    torch.manual_seed(0)
    if name == "resnet18":
        return resnet18(num_classes=100), torch.randn(16, 3, 32, 32)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)), torch.randn(256, 64)


def stepper(model: nn.Module, batch: Tensor) -> Callable[[Callable[[Tensor], Tensor]], float]:
    """A training step by any forward pass of the model, which gives the processor's seconds."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step(forward: Callable[[Tensor], Tensor]) -> float:
        start = time.process_time()
        optimizer.zero_grad()
        forward(batch).square().mean().backward()
        optimizer.step()
        return time.process_time() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--model", choices=TAPS, default="resnet18")
    options = parser.parse_args()
    model, batch = make(options.model)
    wrapper = ForwardWrapper(model)
    step = stepper(model, batch)
    seconds: dict[str, list[float]] = {"bare": [], "tapped": []}
    for number in range(2 * options.rounds):
        wrapper.retap(TAPS[options.model] if number % 2 else [])
        step(lambda x: wrapper(x).output)  # the probe pass
        if number % 2:
            seconds["tapped"].append(step(lambda x: wrapper(x).output))
        else:
            seconds["bare"].append(step(model))
    bare, tapped = map(fastest_quarter, seconds.values())
    print(f"{options.model}: {bare * 1e3:.3f} ms bare, {tapped * 1e3:.3f} ms with {len(TAPS[options.model])} taps")
    print(f"ratio {tapped / bare:.4f} ({options.rounds} rounds)")


def fastest_quarter(seconds: Sequence[float]) -> float:
    """The mean of the fastest quarter."""
    return statistics.mean(sorted(seconds)[: max(1, len(seconds) // 4)])


if __name__ == "__main__":
    main()
