"""CRD's step against torchdistill's, alternating: forward and backward pass and the update of both memories.

::

    python -m pytest tests/bench/bench_crd.py --benchmark-only      # ours alone
    python tests/bench/bench_crd.py [--baseline PYTHON] [--rounds 10] [--batch 64] [--samples 50000] [--negatives 16384]

PYTHON is an interpreter that has torchdistill 1.1.5; without it only our side runs. Both sides get the same embeddings
of width 128 and labels, work on one thread in separate processes, and alternate step by step. The baseline is
handed its contrast rows, drawn beforehand and not counted, because its own way to draw them fails; ours draws within
the step. Prints the median step of each side and the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Step = Callable[[], float]
WIDTH, CLASSES = 128, 10


def batches(options: argparse.Namespace) -> Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Embeddings of student and teacher, which want gradients, and the samples' rows."""
    random = torch.Generator().manual_seed(0)

    def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows = torch.randperm(options.samples, generator=random)[: options.batch]
        embeddings = [F.normalize(torch.randn(options.batch, WIDTH, generator=random)) for _ in range(2)]
        return embeddings[0].requires_grad_(), embeddings[1].requires_grad_(), rows

    return batch


def crd(options: argparse.Namespace) -> nn.Module:
    """Our loss."""
    from kd_core.losses import CRD

    targets = torch.arange(options.samples) % CLASSES
    return CRD(num_samples=options.samples, targets=targets.tolist(), dim=WIDTH, negatives=options.negatives)


def ours(options: argparse.Namespace) -> Step:
    loss, batch = crd(options), batches(options)

    def step() -> float:
        tensors = batch()
        start = time.perf_counter()
        loss(*tensors).backward()
        return time.perf_counter() - start

    return step


def torchdistill(options: argparse.Namespace) -> Step:
    from torchdistill.losses.mid_level import CRDLoss

    loss = CRDLoss("norm", "empty", "norm", WIDTH, options.samples, options.negatives, options.samples)
    batch = batches(options)

    def step() -> float:
        student, teacher, index = batch()
        rows = torch.randint(options.samples, (options.batch, options.negatives + 1))
        rows[:, 0] = index
        start = time.perf_counter()
        scores = loss.contrast_memory(student, teacher, index, rows)
        sum(loss.compute_contrast_loss(score) for score in scores).sum().backward()
        return time.perf_counter() - start

    return step


def test_step(benchmark: Any) -> None:
    options = argparse.Namespace(batch=64, samples=50000, negatives=16384)
    loss, batch = crd(options), batches(options)

    def embeddings() -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
        return batch(), {}

    benchmark.pedantic(lambda *tensors: loss(*tensors).backward(), setup=embeddings, warmup_rounds=2, rounds=10)


def serve(options: argparse.Namespace) -> None:
    """Make a step for every line that comes in, and print its seconds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = {"ours": ours, "torchdistill": torchdistill}[options.serve](options)
    for _ in sys.stdin:
        print(step(), flush=True)


def started(side: str, python: str, arguments: list[str]) -> subprocess.Popen[str]:
    command = [python, __file__, *arguments, "--serve", side]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str]) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    for line in process.stdout:
        try:
            return float(line)
        except ValueError:
            continue  # what a library prints
    raise SystemExit(f"the process ended: {' '.join(map(str, process.args))}")  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", metavar="PYTHON")
    for name, default in (("rounds", 10), ("batch", 64), ("samples", 50000), ("negatives", 16384)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--serve", choices=["ours", "torchdistill"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    sides = {"ours": sys.executable, **({"torchdistill": options.baseline} if options.baseline else {})}
    processes = {side: started(side, python, sys.argv[1:]) for side, python in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.rounds + 2):
        for side, process in processes.items():
            seconds = ask(process)
            if number >= 2:  # the first steps allocate
                times[side].append(seconds)
    for process in processes.values():
        process.communicate()
    medians = {side: statistics.median(steps) for side, steps in times.items()}
    shape = f"batch {options.batch}, {options.negatives} negatives of {options.samples}"
    print(f"{shape}: {', '.join(f'{side} {median * 1e3:.0f} ms' for side, median in medians.items())} a step")
    if options.baseline:
        print(f"ratio {medians['torchdistill'] / medians['ours']:.2f} ({options.rounds} rounds)")


if __name__ == "__main__":
    main()
