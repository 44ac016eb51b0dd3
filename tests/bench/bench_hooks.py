"""What captures cost: a training step with taps against the same step without, in turn, in one run.

::

    python tests/bench/bench_hooks.py [--rounds 100] [--model resnet18|small]

Prints the mean of each side's fastest quarter of steps, which other work on the machine disturbs least, and the ratio
of the two. ``small`` has steps of a fraction of a millisecond and so shows the hooks' own time.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from kd_core.wires import Tap
from kd_core.wrappers import ForwardWrapper

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


def stepper(model: nn.Module, forward: Callable[[Tensor], Tensor], batch: Tensor) -> Callable[[], float]:
    """One training step, which returns its seconds."""
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        forward(batch).square().mean().backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--model", choices=TAPS, default="resnet18")
    options = parser.parse_args()
    bare, batch = make(options.model)
    wrapper = ForwardWrapper(copy.deepcopy(bare), TAPS[options.model])
    plain = stepper(bare, bare, batch)
    tapped = stepper(wrapper, lambda x: wrapper(x).output, batch)
    for _ in range(5):
        plain(), tapped()
    pairs = []
    for number in range(options.rounds):  # who goes first alternates
        first, second = (plain, tapped) if number % 2 else (tapped, plain)
        times = first(), second()
        pairs.append(times if number % 2 else times[::-1])
    without, with_taps = (fastest_quarter(each) for each in zip(*pairs, strict=True))
    print(f"{options.model}: {without * 1e3:.3f} ms bare, {with_taps * 1e3:.3f} ms with {len(wrapper.taps)} taps")
    print(f"ratio {with_taps / without:.4f} ({options.rounds} rounds)")


def fastest_quarter(seconds: Sequence[float]) -> float:
    """The mean of the fastest quarter."""
    return statistics.mean(sorted(seconds)[: max(1, len(seconds) // 4)])


if __name__ == "__main__":
    main()
