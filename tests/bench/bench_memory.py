"""Whether a run's memory stays flat: the resident set after each epoch of a small distillation, or another run.

::

    python tests/bench/bench_memory.py [--epochs 20] [--config CONFIG]

Prints MB per epoch, and by how much the last one differs from the third, when all caches are filled.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path

import psutil

from kd_core.config import load
from kd_core.experiment import Experiment
from kd_core.observers import OBSERVERS, EpochEvent, Observer

CONFIG = Path(__file__).parents[2] / "configs" / "vision" / "digits_kd.yaml"
STEPS_PER_EPOCH = 23
SETTLED = 3
"""The epoch after which nothing new is to be kept."""


def resident() -> float:
    """This process's resident set in MB."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--config", type=Path, help="another experiment, whose first stage has `epochs:`")
    options = parser.parse_args()
    epochs = options.epochs
    sizes: list[float] = []

    @OBSERVERS("bench")
    class Sizes(Observer):
        def after_epoch(self, event: EpochEvent) -> None:
            sizes.append(resident())
            print(f"epoch {len(sizes):>3}  {sizes[-1]:8.1f} MB", flush=True)

    overrides = ["models.teacher.weights=null", f"stages.distill.steps={epochs * STEPS_PER_EPOCH}"]
    if options.config is not None:
        first = next(iter(load(options.config).data["stages"]))
        overrides = [f"stages.{first}.epochs={epochs}"]
    with tempfile.TemporaryDirectory() as folder:
        Experiment.load(options.config or CONFIG, overrides=[*overrides, "observers={bench: {}}"]).train(Path(folder))
    print(f"from epoch {SETTLED} to {epochs}: {sizes[-1] - sizes[SETTLED - 1]:+.1f} MB")


if __name__ == "__main__":
    main()
