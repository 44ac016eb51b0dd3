"""Sides of a comparison, each in a process of its own, in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterable


def measure(side: str, threads: int) -> tuple[float, float]:
    """Images a second of one side in training and in scoring: what this script prints with ``--side``."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *sys.argv, "--side", side]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    trained, scored = done.stdout.split()[-2:]
    return float(trained), float(scored)


def compare(sides: Iterable[str], *, rounds: int, threads: int) -> float:
    """Print how the sides compare with the one called ``reference``; returns the last one's scored images a second."""
    speeds: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side, figures in speeds.items():
            figures.append(measure(side, threads))
            trained, scored = figures[-1]
            print(f"round {number + 1}: {side:<14} training {trained:6.2f}, scoring {scored:6.2f} images/s", flush=True)
    median = 0.0
    for part, task in enumerate(("training", "scoring")):
        for side, values in speeds.items():
            ratios = [value[part] / base[part] for value, base in zip(values, speeds["reference"], strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            median = statistics.median(value[part] for value in values)
            print(f"{task}: {side:<14} {median:6.2f} images/s, {statistics.median(ratios):.2f} x ({spread})")
    return median
