"""One table of the ratios that say whether something has become slower, and the answer to that as an exit code.

::

    python tests/bench/bench.py [--rounds 15] [--only NAME] [--update] [--list]

Each line compares our code with the same work written by hand, or with itself on fewer data, in turn, by processor
time on one thread: the median ratio and the middle half of the rounds. Beside it is the ratio of ``baseline.json``. One
that is more than 5 % above it, and whose middle half lies above the baseline's, is named, and the exit code is 1.
``--update`` writes the baseline instead. The benches that need data or other interpreters are scripts of their own:
docs/performance.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench_growth import measure
from bench_hooks import TAPS, made
from bench_overhead import raced
from ratios import Ratio, in_turn, machine, read_baseline, verdict, write_baseline
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.data.batch import Batch
from kd_core.device.kernels import library
from kd_core.device.kernels.conv3x3 import conv3x3
from kd_core.device.kernels.dropout import Dropout, attention
from kd_core.device.kernels.library import can_build
from kd_core.device.kernels.norm import batch_norm
from kd_core.losses.contrastive import CRD
from kd_core.losses.dense import cwd
from kd_core.losses.logits import kd
from kd_core.losses.registry import LOSSES
from kd_core.taps.wrappers import ForwardWrapper
from kd_core.train.output_store import Layout, OutputStore
from kd_core.train.output_store import Part as Column
from kd_vision.metrics import ClassificationMetrics

BASELINE = Path(__file__).with_name("baseline.json")
FEW, MANY = 100_000, 1_000_000
GROWING = ("order", "batches", "chosen", "counts", "facts", "partners", "crd", "scores", "folder")
"""Parts of bench_growth.py, compared with themselves on a tenth of the samples."""
Bench = Callable[[int], list[float]]


def loop(rounds: int) -> list[float]:
    """A step of ``train``, ResNet-20 from ResNet-56 on CIFAR's size, over one of a hand-written loop."""
    with contextlib.redirect_stderr(io.StringIO()):
        framework, hand = raced(rounds)
    return [ours[1] / by_hand[1] for ours, by_hand in zip(framework, hand, strict=True)]


def taps(name: str) -> Bench:
    """A training step with taps over one without."""

    def bench(rounds: int) -> list[float]:
        (bare, batch), (model, _) = made(name), made(name)
        wrapper = ForwardWrapper(model, TAPS[name])
        return in_turn(_step(lambda x: wrapper(x).output, batch), _step(bare, batch), rounds)

    return bench


def _step(forward: Callable[[Tensor], Tensor], batch: Tensor) -> Callable[[], None]:
    return lambda: forward(batch).square().mean().backward()


def soft_targets(rounds: int) -> list[float]:
    """``kd`` over ``kl_div`` on logits of 256 samples and 1,000 classes, forward and backward."""
    student, teacher = torch.randn(256, 1000, requires_grad=True), torch.randn(256, 1000)

    def by_hand() -> None:
        soft = F.softmax(teacher / 4, 1)
        (16 * F.kl_div(F.log_softmax(student / 4, 1), soft, reduction="batchmean")).backward()

    return in_turn(lambda: kd(student, teacher, temperature=4.0).backward(), by_hand, rounds)


def channels(rounds: int) -> list[float]:
    """``cwd`` over ``kl_div`` by channel on maps 4 x 64 x 32 x 32."""
    student, teacher = torch.randn(4, 64, 32, 32, requires_grad=True), torch.randn(4, 64, 32, 32)

    def by_hand() -> None:
        soft = F.softmax(teacher.flatten(2), 2)
        F.kl_div(F.log_softmax(student.flatten(2), 2), soft, reduction="sum").div(4 * 64).backward()

    return in_turn(lambda: cwd(student, teacher).backward(), by_hand, rounds)


def contrast(rounds: int) -> list[float]:
    """A step of CRD with 16,384 negatives of 50,000 samples over the two products with its memories."""
    loss = CRD(num_samples=50_000, targets=torch.arange(50_000) % 10)
    vectors = [F.normalize(torch.randn(64, 128)).requires_grad_() for _ in range(2)]
    index, memory = torch.randperm(50_000)[:64], torch.randn(50_000, 128)

    def products() -> None:
        for vector in vectors:
            (vector @ memory.T).sum().backward()

    return in_turn(lambda: loss(*vectors, index).backward(), products, rounds)


def scoring(rounds: int) -> list[float]:
    """A classifier's metrics of 1,000 samples and 1,000 classes over a softmax and a sort of the same logits."""
    logits, target = torch.randn(1000, 1000), torch.arange(1000)
    batch = Batch({}, target, target)

    def by_hand() -> None:
        logits.softmax(1)
        logits.topk(5, 1)
        F.cross_entropy(logits, target)

    return in_turn(lambda: ClassificationMetrics(1000).update(logits, batch), by_hand, rounds)


def reading(rounds: int) -> list[float]:
    """Reading 256 records of 4 kB of a teacher over copying as many bytes out of a mapped file."""
    with tempfile.TemporaryDirectory() as name:
        layout = Layout((Column("float32", (1000,)),), 0)
        store, rows = OutputStore(Path(name) / "kept", {}), torch.arange(4096)
        store.write(0, rows, layout, [torch.randn(4096, 1000)])
        np.save(Path(name) / "plain.npy", np.zeros((4096, 4000), np.uint8))
        plain, some = np.load(Path(name) / "plain.npy", mmap_mode="r"), torch.randperm(4096)[:256]
        return in_turn(lambda: store.read(0, some), lambda: plain[some.numpy()].copy(), rounds)


def norms(rounds: int) -> list[float]:
    """A norm, a sum and a ReLU of maps 128 x 16 x 32 x 32 in bfloat16 as one kernel over PyTorch's, both passes."""
    maps, added, gradient = (_maps(16, 32) for _ in range(3))
    inputs, parameters = (maps.requires_grad_(), added.requires_grad_()), [torch.ones(16), torch.zeros(16)]
    running = [torch.zeros(16), torch.ones(16)]

    def ours() -> None:
        out = batch_norm(maps, *running, *parameters, 0.1, 1e-5, added, "relu")
        torch.autograd.grad(out, inputs, gradient)

    def by_hand() -> None:
        out = F.relu(F.batch_norm(maps, *running, *parameters, True) + added, inplace=True)
        torch.autograd.grad(out, inputs, gradient)

    return in_turn(ours, by_hand, rounds)


def convolutions(rounds: int) -> list[float]:
    """A 3 x 3 convolution of maps 128 x 32 x 16 x 16 in bfloat16 over PyTorch's, both passes."""
    maps, gradient, weight = _maps(32, 16), _maps(32, 16), torch.randn(32, 32, 3, 3, requires_grad=True)

    def passes(convolution: Callable[[Tensor, Tensor], Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            out = convolution(maps, weight)
        torch.autograd.grad(out, weight, gradient)

    return in_turn(lambda: passes(conv3x3), lambda: passes(lambda x, w: F.conv2d(x, w, padding=1)), rounds)


def attentions(rounds: int) -> list[float]:
    """Attention of 32 texts of 64 tokens in bfloat16, 12 heads, a tenth of its weights dropped, over PyTorch's."""
    inputs = [torch.randn(32, 12, 64, 32, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    mask, gradient = torch.ones(32, 1, 64, 64, dtype=torch.bool), torch.randn(32, 12, 64, 32, dtype=torch.bfloat16)

    def passes(attention: Callable[..., Tensor]) -> None:
        torch.autograd.grad(attention(*inputs), inputs, gradient)

    pytorch = partial(F.scaled_dot_product_attention, attn_mask=mask, dropout_p=0.1)
    return in_turn(lambda: passes(partial(attention, mask=mask, dropout=0.1)), lambda: passes(pytorch), rounds)


def dropouts(rounds: int) -> list[float]:
    """Dropout of 32 x 64 x 384 numbers in bfloat16 over PyTorch's, both passes."""
    values = torch.randn(32, 64, 384, dtype=torch.bfloat16, requires_grad=True)
    ours, pytorch = Dropout(0.1), nn.Dropout(0.1)
    return in_turn(lambda: _both(ours(values), values), lambda: _both(pytorch(values), values), rounds)


def map_losses(name: str) -> Bench:
    """A loss of maps of logits 4 x 21 x 256 x 256 by a kernel over the same loss without, both passes."""

    def bench(rounds: int) -> list[float]:
        student, teacher = (_maps(21, 256, 4).float() for _ in range(2))
        student.requires_grad_()
        other = teacher if name == "kd" else torch.randint(0, 21, (4, 256, 256))

        def passes(*, kernels: bool) -> None:
            library.use(kernels)
            _both(LOSSES.get(name)(student, other), student)

        try:
            return in_turn(lambda: passes(kernels=True), lambda: passes(kernels=False), rounds)
        finally:
            library.use(False)

    return bench


def _both(out: Tensor, inputs: Tensor) -> None:
    torch.autograd.grad(out, inputs, torch.ones_like(out))


def _maps(channels: int, size: int, batch: int = 128) -> Tensor:
    maps = torch.randn(batch, channels, size, size).to(torch.bfloat16)
    return maps.contiguous(memory_format=torch.channels_last)


def growth(part: str) -> Bench:
    """What a sample of 1,000,000 costs over one of 100,000."""

    def bench(rounds: int) -> list[float]:
        pairs = ((measure(part, MANY), measure(part, FEW)) for _ in range(max(2, rounds // 5)))
        return [many.seconds * FEW / (few.seconds * MANY) for many, few in pairs]

    return bench


KERNELS: dict[str, Bench] = {
    "norm, sum and ReLU, PyTorch's": norms,
    "convolution 3 x 3, PyTorch's": convolutions,
    "attention with dropout, PyTorch's": attentions,
    "dropout, PyTorch's": dropouts,
    **{f"{name} of maps, without its kernel": map_losses(name) for name in ("cross_entropy", "kd")},
}
BENCHES: dict[str, Bench] = {
    "the loop, by hand": loop,
    **{f"taps of {name}, none": taps(name) for name in TAPS},
    "kd, by hand": soft_targets,
    "cwd, by hand": channels,
    "crd, its products": contrast,
    **(KERNELS if can_build() else {}),
    "metrics, by hand": scoring,
    "a teacher's outputs, a plain file": reading,
    **{f"{part} of 1,000,000, of 100,000": growth(part) for part in GROWING},
}


def main() -> int:
    """Measure, print, compare; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="benches whose names contain this")
    parser.add_argument("--update", action="store_true", help="write the baseline")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    told, before = read_baseline(BASELINE)
    if differing := [key for key, value in machine().items() if told.get(key, value) != value]:
        print(f"the baseline is of another machine ({', '.join(differing)}): ratios may differ by more than 5 %")
    ratios: dict[str, Ratio] = {}
    width = max(map(len, BENCHES))
    print(f"{'ours over':<{width}}  {'now':<24}  baseline")
    for name, bench in BENCHES.items():
        if options.only in name:
            ratios[name] = Ratio.of(bench(options.rounds))
            print(f"{name:<{width}}  {ratios[name]!s:<24}  {before.get(name, '-')!s}", flush=True)
    if options.update:
        write_baseline(BASELINE, {**before, **ratios})
        return 0
    worse = verdict(ratios, before)
    for name in worse:
        print(f"slower than the baseline: {name}, {ratios[name].median / before[name].median - 1:+.0%}")
    return int(bool(worse))


if __name__ == "__main__":
    sys.exit(main())
