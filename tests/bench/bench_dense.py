"""What each loss on maps costs: time and memory of its forward and backward pass.

::

    python -m pytest tests/bench/bench_dense.py --benchmark-only      # the time at a batch of 1
    python tests/bench/bench_dense.py [--batch 4] [--features 64] [--pixels 512]      # time and memory

Features are (batch, 256, features, features), logits (batch, 21, pixels, pixels), labels of 21 classes with a tenth
void; each loss runs in a process of its own, once for the time and once, with an allocator that keeps nothing it is
given back, for the memory: the highest resident set during the pass above what the inputs, their gradients and the
loss's own state take. Beside each size stands what a matrix of all pairs of positions of one image would take.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.losses import LOSSES

CLASSES, CHANNELS, VOID = 21, 256, 255
MB = 2**20
Pass = Callable[[Tensor, Tensor, Tensor], Tensor]


@cache
def memory() -> nn.Module:
    """CIRKD's memory: 473 MB of pixels and regions."""
    return LOSSES.get("cirkd_memory")(num_classes=CLASSES)


ON_LOGITS: dict[str, Pass] = {
    "kd": lambda student, teacher, target: LOSSES.get("kd")(student, teacher, target != VOID, temperature=1.0),
    "dist": lambda student, teacher, target: LOSSES.get("dist")(student, teacher, target != VOID),
    "cwd, logits": lambda student, teacher, target: LOSSES.get("cwd")(student, teacher, target != VOID),
}
ON_FEATURES: dict[str, Pass] = {
    "cwd": lambda student, teacher, target: LOSSES.get("cwd")(student, teacher),
    "ifvd": lambda student, teacher, target: LOSSES.get("ifvd")(student, teacher, target, num_classes=CLASSES),
    "affinity": lambda student, teacher, target: LOSSES.get("affinity")(student, teacher),
    "knowledge_adaptation": lambda student, teacher, target: LOSSES.get("knowledge_adaptation")(student, teacher),
    "mgd": lambda student, teacher, target: LOSSES.get("mgd")(student, teacher),
    "skd_pairwise, 2 x 2 nodes": lambda student, teacher, target: LOSSES.get("skd_pairwise")(student, teacher),
    "skd_pairwise, all nodes": lambda student, teacher, target: LOSSES.get("skd_pairwise")(
        student, teacher, scale=1 / student.shape[2]
    ),
    "cirkd_minibatch": lambda student, teacher, target: LOSSES.get("cirkd_minibatch")(student, teacher),
    "cirkd_memory": lambda student, teacher, target: memory()(student, teacher, target),
}


def resident(field: str) -> float:
    """``VmRSS`` or ``VmHWM``, the highest since it was reset, of this process in MB."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def tensors(name: str, batch: int, features: int, pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and target of a loss; the student's has a gradient already."""
    random = torch.Generator().manual_seed(0)
    size = (CLASSES, pixels, pixels) if name in ON_LOGITS else (CHANNELS, features, features)
    student, teacher = (torch.randn(batch, *size, generator=random) for _ in range(2))
    target = torch.randint(CLASSES, (batch, pixels, pixels), generator=random)
    target[:, : pixels // 10] = VOID
    student.requires_grad_()
    student.grad = torch.zeros_like(student)
    return student, teacher, target


@pytest.mark.parametrize("name", [*ON_LOGITS, *ON_FEATURES])
def test_loss(benchmark: Any, name: str) -> None:
    benchmark.group = "on logits" if name in ON_LOGITS else "on features"
    maps = tensors(name, batch=1, features=64, pixels=512)
    run = {**ON_LOGITS, **ON_FEATURES}[name]
    benchmark.pedantic(lambda: run(*maps).backward(), warmup_rounds=1, rounds=5)


def measure(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Milliseconds and MB of one forward and backward pass, after one over a corner of the maps."""
    student, teacher, target = tensors(name, options.batch, options.features, options.pixels)
    run = {**ON_LOGITS, **ON_FEATURES}[name]
    run(student[:1, :, :32, :32], teacher[:1, :, :32, :32], target[:1, :32, :32]).backward()  # what is loaded once
    Path("/proc/self/clear_refs").write_text("5")
    before, started = resident("VmRSS"), time.perf_counter()
    run(student, teacher, target).backward()
    return 1e3 * (time.perf_counter() - started), resident("VmHWM") - before


def apart(name: str, **environment: str) -> tuple[float, float]:
    """``measure`` in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--loss", name]
    environ = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        sys.exit(done.stderr)
    milliseconds, extra = map(float, done.stdout.split())
    return milliseconds, extra


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--loss", choices=[*ON_LOGITS, *ON_FEATURES], help="only this one")
    options = parser.parse_args()
    if options.loss:
        print(*measure(options.loss, options))
        return
    for names, side in ((ON_LOGITS, options.pixels), (ON_FEATURES, options.features)):
        channels = CLASSES if names is ON_LOGITS else CHANNELS
        held = options.batch * channels * side**2 * 4 / MB
        print(f"({options.batch}, {channels}, {side}, {side}), {held:.0f} MB; all pairs: {side**4 * 4 / MB:,.0f} MB")
        for name in names:
            milliseconds, _ = apart(name)
            _, extra = apart(name, MALLOC_MMAP_THRESHOLD_="65536")
            print(f"  {name:<26} {milliseconds:8.0f} ms {extra:8.0f} MB", flush=True)


if __name__ == "__main__":
    main()
