"""The share of the input in a step of bench_speed.py's distillation: cutting, augmenting and normalising a batch.

::

    python tests/bench/bench_input.py [--runtime fast] [--steps 40]

Prints milliseconds a step, those of them that the input takes, and their share.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_speed import CONFIG, ROOT, WARM, Enough

from kd_core.experiment import Experiment
from kd_core.train.loop import StageRunner
from kd_vision.task import ImageClassification


class Watch:
    """Seconds since the first step that counts, in all and in the input."""

    def __init__(self, steps: int) -> None:
        self.left, self.steps = WARM + steps, steps
        self.started = self.input = 0.0

    def timed(self, function: Any, *arguments: Any, **options: Any) -> Any:
        before = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            self.input += time.perf_counter() - before

    def step(self) -> None:
        self.left -= 1
        if self.left == self.steps:
            self.started, self.input = time.perf_counter(), 0.0
        if self.left == 0:
            raise Enough


def watch(watch: Watch) -> None:
    """Put the watch round what gives batches and what prepares them."""
    batches, prepare, between = StageRunner._batches, ImageClassification.prepare, StageRunner._between_steps

    def timed_batches(self: StageRunner) -> Iterator[Any]:
        rest = batches(self)
        while (found := watch.timed(next, rest, None)) is not None:
            yield found

    def counted(self: StageRunner) -> None:
        between(self)
        watch.step()

    StageRunner._batches = timed_batches  # type: ignore[method-assign]
    StageRunner._between_steps = counted  # type: ignore[method-assign]
    ImageClassification.prepare = lambda *given: watch.timed(prepare, *given)  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "cifar10")
    parser.add_argument("--runtime", default="fast")
    parser.add_argument("--steps", type=int, default=40)
    arguments = parser.parse_args()
    found = Watch(arguments.steps)
    watch(found)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "input.yaml"
        path.write_text(CONFIG.format(data=arguments.data.resolve(), runtime=arguments.runtime))
        try:
            Experiment.load(path).train(Path(folder) / "run")
        except Enough:
            whole = time.perf_counter() - found.started
    step, of_it = (1000 * each / arguments.steps for each in (whole, found.input))
    print(f"{step:.1f} ms a step, {of_it:.2f} ms of it the input: {100 * of_it / step:.2f} %")


if __name__ == "__main__":
    main()
