"""An observer that the benchmarks put into a run: it notes when each step ends, and ends the run after some."""

from __future__ import annotations

import time

from kd_core.observers import OBSERVERS, Observer, StepEvent

WATCHED = "observers={bench: {}}"
"""The override that puts the observer into a run."""


class Enough(Exception):
    """The steps to measure are done."""


@OBSERVERS("bench")
class Steps(Observer):
    """Notes when each step ends. ``count`` steps after ``warm`` ones raise Enough; None for no end."""

    warm = 3
    count: int | None = None
    times: list[float] = []  # noqa: RUF012  of the one run that a benchmark makes

    def after_step(self, event: StepEvent) -> None:
        """Note the time."""
        self.times.append(time.perf_counter())
        if self.count is not None and len(self.times) == self.warm + self.count:
            raise Enough

    @classmethod
    def seconds(cls) -> float:
        """The mean of the steps after the warm ones."""
        return (cls.times[-1] - cls.times[cls.warm - 1]) / (len(cls.times) - cls.warm)
