"""Ratios of two sides that are measured in turn, and how they compare with those of a baseline."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

TOLERANCE = 0.05
"""By so much of a ratio it may grow, whatever its spread."""
SHORTEST = 0.02
"""Processor seconds of each measurement: what is faster is repeated."""
Work = Callable[[], Any]


@dataclass(frozen=True)
class Ratio:
    """A ratio over several rounds: its median, and the middle half of the rounds. Less is faster."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, rounds: Sequence[float]) -> Ratio:
        """The ratio of some rounds, two at least."""
        low, median, high = statistics.quantiles(rounds, n=4)
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} to {self.high:.3f})"

    def regressed_from(self, before: Ratio) -> bool:
        """Whether it is more than 5 % above one before, and so are the middle halves of both."""
        return self.median > before.median * (1 + TOLERANCE) and self.low > before.high


def in_turn(ours: Work, reference: Work, rounds: int) -> list[float]:
    """For each round our processor time over that of the reference, the two in turn."""
    ours()
    reference()
    repeats = [max(1, round(SHORTEST / max(_seconds(work, 1), 1e-6))) for work in (ours, reference)]

    def measured() -> Iterator[float]:
        for number in range(rounds):
            sides = ((ours, repeats[0]), (reference, repeats[1]))
            order = sides if number % 2 else sides[::-1]  # whoever comes second finds other caches
            times = {work: _seconds(work, count) / count for work, count in order}
            yield times[ours] / times[reference]

    return list(measured())


def _seconds(work: Work, count: int) -> float:
    started = time.process_time()
    for _ in range(count):
        work()
    return time.process_time() - started


def machine() -> dict[str, Any]:
    """What decides figures: processor, cores, versions."""
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def write_baseline(path: Path, ratios: Mapping[str, Ratio]) -> None:
    """Keep ratios, with the machine that they are of."""
    content = {"machine": machine(), "ratios": {name: asdict(ratio) for name, ratio in ratios.items()}}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_baseline(path: Path) -> tuple[dict[str, Any], dict[str, Ratio]]:
    """The machine of a baseline and its ratios; nothing of a file that is not there."""
    if not path.is_file():
        return {}, {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["machine"], {name: Ratio(**ratio) for name, ratio in content["ratios"].items()}


def verdict(ratios: Mapping[str, Ratio], before: Mapping[str, Ratio]) -> list[str]:
    """The names of the ratios that have become worse."""
    return [name for name, ratio in ratios.items() if name in before and ratio.regressed_from(before[name])]
