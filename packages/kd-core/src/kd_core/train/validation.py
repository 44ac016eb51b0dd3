"""Validation during training: what chooses the best student, keeps it, and stops a stage early."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kd_core.data.batch import STUDENT, Split
from kd_core.device.distributed import broadcast_buffers, run_on_rank_zero
from kd_core.device.fsdp import unsharded
from kd_core.errors import KDError, did_you_mean
from kd_core.observers import ValidationEvent
from kd_core.train.progress import RunContext
from kd_core.train.stage import Stage, dotted


@dataclass
class BestTracker:
    """Compares values of the monitored metric. ``best`` is None before the first finite one."""

    maximise: bool
    best: float | None = None

    def improved(self, value: float, min_delta: float = 0.0) -> bool:
        """Whether ``value`` is better than the best one by more than ``min_delta``; a value not finite never is."""
        if not math.isfinite(value):
            return False
        if self.best is None:
            return True
        return value > self.best + min_delta if self.maximise else value < self.best - min_delta


class Validation:
    """Scores a stage's student on the validation split, where there is one and the stage trains the student."""

    def __init__(self, context: RunContext, stage: Stage) -> None:
        self.context, self.stage, self.progress = context, stage, context.progress

    def after_step(self) -> None:
        """Score where ``validate: {every_steps: N}`` asks for it now."""
        every = self.stage.spec.validate.every_steps
        if every and self.progress.step % every == 0:
            self.run()
            self.stage.set_modes()

    def after_epoch(self) -> float | None:
        """Score where ``validate: {every_epochs: N}`` asks for it now, and after a stage's last epoch."""
        every = self.stage.spec.validate.every_epochs
        last = self.progress.step >= self.stage.total_steps
        return self.run() if every and (self.progress.epoch % every == 0 or last) else None

    def run(self) -> float | None:
        """Score the student, keep it if it is the best so far; the value of the monitored metric."""
        split = self.stage.splits.val
        if split is None or not self.stage.trains_student:
            return None
        with unsharded(self.stage.step_module):
            broadcast_buffers(list(self.stage.candidates.values()))
            model, metrics = self._scored(split)
            name, maximise = self._monitor(metrics)
            value = metrics[name]
            best = self._compare(value, BestTracker(maximise, self.progress.best))
            if best:
                self.progress.best = value
                self.save_best(metrics, model)
        progress = self.progress
        self.context.observers.after_validation(
            ValidationEvent(self.stage.plan.name, progress.epoch, progress.step, metrics, best, progress.stopped)
        )
        return value

    def _scored(self, split: Split) -> tuple[str, dict[str, float]]:
        """The best of the student and its candidates, and its metrics: beside them each one's monitored value."""
        measured = self.stage.measured(self.stage.candidates, split)
        scores = {name: metrics.compute() for name, metrics in measured.items()}
        if len(scores) == 1:
            return STUDENT, scores[STUDENT]
        monitor, maximise = self._monitor(scores[STUDENT])
        tracker, chosen = BestTracker(maximise), STUDENT
        for name, metrics in scores.items():
            if tracker.improved(metrics[monitor]):
                tracker.best, chosen = metrics[monitor], name
        return chosen, {**scores[chosen], **{f"{name}/{monitor}": item[monitor] for name, item in scores.items()}}

    def _compare(self, value: float, tracker: BestTracker) -> bool:
        """Whether ``value`` is the best so far; early stopping counts the scorings without a gain."""
        stopping = self.stage.spec.early_stopping
        gained = tracker.improved(value, 0.0 if stopping is None else stopping.min_delta)
        self.progress.wait_count = 0 if gained else self.progress.wait_count + 1
        self.progress.stopped = stopping is not None and self.progress.wait_count >= stopping.patience
        return tracker.improved(value)

    def save_best(self, metrics: dict[str, float], model: str = STUDENT) -> None:
        """Keep the student, or the candidate ``model``, as it is now, in the run and in its folder, as the best one."""
        state: dict[str, Any] = {"metrics": metrics, "stage": self.stage.plan.index, "epoch": self.progress.epoch}
        if self.stage.plan.candidates:
            state["model"] = model
        best = {"student": self.stage.weights(model), **state}
        run_on_rank_zero(lambda: self.context.store.save_best(best, self.progress.total))
        self.context.best = best

    def _monitor(self, metrics: Mapping[str, float]) -> tuple[str, bool]:
        """The metric that decides, and whether more is better."""
        task, monitor = self.context.components.plan.task, self.stage.spec.monitor
        name, mode = (task.monitor, task.mode) if monitor is None else (monitor.metric, monitor.mode)
        if name not in metrics:
            path = dotted((*self.stage.plan.path("monitor"), "metric"))
            raise KDError(f"there is no metric {name!r}", hint=did_you_mean(name, list(metrics)), path=path)
        return name, mode == "max"
