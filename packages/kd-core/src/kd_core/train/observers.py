"""The observers that every run has, those that a config can name, and the gradients of single terms for them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import combinations
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kd_core.device.distributed import all_reduce_sum_, run_on_rank_zero, world_size
from kd_core.files import append, json_text
from kd_core.observers import OBSERVERS, EpochEvent, Observer, RunEvent, StepEvent, ValidationEvent
from kd_core.runs.metrics_log import MetricsLog
from kd_core.runs.progress import Epoch, Reporter
from kd_core.train.step_log import keep_steps

SELDOM, OFTEN, SHARE = 10.0, 1.0, 0.02
"""Seconds between two epochs that are shown: this share of the time since the first one, but in these limits."""
FEW = 30
"""Of so many epochs all are shown."""


class ProgressReport(Observer):
    """A bar on a terminal, lines in a pipe and in the run's log. The loss is read every ``log_every`` steps only.

    Of many epochs that follow fast on each other the first and the last are shown, and as many between them as can be
    read; the log has all.
    """

    def __init__(self, reporter: Reporter, log_every: int, *, often: float = OFTEN) -> None:
        self.reporter, self.log_every, self._often = reporter, log_every, often
        self._open = ExitStack()
        self._epoch: Epoch | None = None
        self._started = self._last = -math.inf
        self._shows, self._hidden = True, 0

    def after_step(self, event: StepEvent) -> None:
        """Move the bar of the epoch."""
        if self._epoch is None:
            shown = self.reporter.epoch(
                event.stage, event.epoch, event.epochs, event.steps_per_epoch, done=event.batch - 1
            )
            self._epoch = self._open.enter_context(shown)
        self._epoch.step(1, **({} if event.step % self.log_every else {"loss": event.mean_loss()}))

    def after_epoch(self, event: EpochEvent) -> None:
        """Close the bar, and say what the epoch's losses were, where it is one that is shown."""
        self.on_end()
        now = time.monotonic()
        if event.epoch == 1 or self._started == -math.inf:
            self._started, self._last = now, -math.inf
        pause = min(max(SHARE * (now - self._started), self._often), SELDOM)
        self._shows = event.epochs <= FEW or now - self._last >= pause or event.epoch >= event.epochs
        self._hidden += not self._shows
        self._last = now if self._shows else self._last
        epoch = f"{event.epoch:>{len(str(event.epochs))}}/{event.epochs}"
        self._say(f"{event.stage} {epoch}: {aligned(event.train)}({event.seconds:.1f} s)")
        if event.epoch >= event.epochs and self._hidden:
            self.reporter.show(f"    {self._hidden:,} more epochs are in log.txt")
            self._hidden = 0

    def _say(self, text: str) -> None:
        """A line of an epoch: to the log, and shown where the epoch is."""
        (self.reporter.info if self._shows else self.reporter.debug)(text)

    def after_validation(self, event: ValidationEvent) -> None:
        """Say what the metrics are."""
        remark = "(best so far)" if event.best else "stopping early" if event.stopping else ""
        self._shows = self._shows or event.stopping
        self._say(f"    validation: {aligned(event.metrics)}{remark}".rstrip())

    def on_end(self) -> None:
        """Close the bar."""
        self._open.close()
        self._epoch = None


def aligned(metrics: Mapping[str, float]) -> str:
    """Metrics as columns that stand below each other from epoch to epoch, without those of single classes."""
    return "".join(f"{key} {value:<9.4g} " for key, value in metrics.items() if "/" not in key)


class MetricsWriter(Observer):
    """``metrics.jsonl``: a line for each epoch and each validation."""

    def __init__(self, log: MetricsLog) -> None:
        self.log = log

    def after_epoch(self, event: EpochEvent) -> None:
        """Write the epoch's losses and learning rates."""
        rates = list(event.learning_rates)
        self._write(
            {
                "stage": event.stage,
                "epoch": event.epoch,
                "step": event.step,
                "lr": rates[0] if len(rates) == 1 else rates,
                "train": dict(event.train),
                "seconds": round(event.seconds, 3),
            }
        )

    def after_validation(self, event: ValidationEvent) -> None:
        """Write the metrics."""
        position = {"stage": event.stage, "epoch": event.epoch, "step": event.step}
        self._write({**position, "val": dict(event.metrics)})

    def _write(self, row: dict[str, Any]) -> None:
        run_on_rank_zero(lambda: self.log.append(row))


@OBSERVERS("gradient_norms")
class GradientNorms(Observer):
    """Writes the norm of each term's gradient, and the cosine between each two: a negative one is a conflict.

    Every ``every_steps`` steps a line goes to ``gradients.jsonl`` in the run's folder. Gradients are those of the
    weighted losses, before clipping, by all parameters that learn. Gradients whose cosine is negative are what Yu et
    al., *Gradient Surgery for Multi-Task Learning*, NeurIPS 2020 (arXiv 2001.06782), call conflicting.
    """

    FILE = "gradients.jsonl"

    def __init__(self, *, every_steps: Annotated[int, Field(ge=1)] = 100) -> None:
        self.every_steps = every_steps

    def wants_gradients(self, step: int) -> bool:
        """Every ``every_steps`` steps, from the first."""
        return step % self.every_steps == 0

    def on_start(self, event: RunEvent) -> None:
        """Keep the lines of steps that a resumed run does not repeat."""
        self._file, self._writes = event.folder / self.FILE, event.is_main
        if self._writes:
            keep_steps(self._file, event.total)

    def after_step(self, event: StepEvent) -> None:
        """Write the line of a step whose gradients were wanted."""
        if not event.gradients or not self._writes or not self.wants_gradients(event.step - 1):
            return
        norms = {name: vector.norm().item() for name, vector in event.gradients.items()}
        cosines = {
            f"{first}/{second}": (a @ b).item() / (norms[first] * norms[second])
            for (first, a), (second, b) in combinations(event.gradients.items(), 2)
            if norms[first] and norms[second]
        }
        position = {"stage": event.stage, "step": event.step, "total": event.total}
        append(self._file, json_text({**position, "norms": norms, "cosines": cosines}) + "\n")


class TermGradients:
    """The gradient of each weighted term by the ``parameters``, added up over the micro-batches of one step."""

    def __init__(self, names: Sequence[str], parameters: Iterable[nn.Parameter]) -> None:
        self.names, self.parameters = list(names), list(parameters)
        self.vectors: dict[str, Tensor] = {}

    def add(self, weighted: Sequence[Tensor]) -> None:
        """Add those of a micro-batch, whose graph is kept for the backward pass."""
        for name, loss in zip(self.names, weighted, strict=True):
            if not loss.requires_grad:
                continue
            parts = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            flat = [
                (torch.zeros_like(parameter) if part is None else part).detach().flatten().float()
                for part, parameter in zip(parts, self.parameters, strict=True)
            ]
            vector = torch.cat(flat)
            self.vectors[name] = self.vectors[name] + vector if name in self.vectors else vector

    def mean(self) -> dict[str, Tensor]:
        """The mean over the processes, which is the gradient that the optimiser is given."""
        return {name: all_reduce_sum_(vector) / world_size() for name, vector in self.vectors.items()}


class Observers:
    """All observers of a run, told one after another."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = list(observers)

    @property
    def may_want_gradients(self) -> bool:
        """Whether one of them overrides :meth:`Observer.wants_gradients`."""
        return any(type(observer).wants_gradients is not Observer.wants_gradients for observer in self._observers)

    def wants_gradients(self, step: int) -> bool:
        """Whether one of them wants the terms' gradients of this step."""
        return any(observer.wants_gradients(step) for observer in self._observers)

    def on_start(self, event: RunEvent) -> None:
        """Tell of the run's begin."""
        for observer in self._observers:
            observer.on_start(event)

    def after_step(self, event: StepEvent) -> None:
        """Tell of a step."""
        for observer in self._observers:
            observer.after_step(event)

    def after_epoch(self, event: EpochEvent) -> None:
        """Tell of an epoch."""
        for observer in self._observers:
            observer.after_epoch(event)

    def after_validation(self, event: ValidationEvent) -> None:
        """Tell of a validation."""
        for observer in self._observers:
            observer.after_validation(event)

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The states of those that have one."""
        states = {type(observer).__name__: observer.state_dict() for observer in self._observers}
        return {name: state for name, state in states.items() if state}

    def load_state_dict(self, states: Mapping[str, Mapping[str, Any]]) -> None:
        """Have each go on where its state was taken; a run may go on with other observers than it began with."""
        for observer in self._observers:
            if type(observer).__name__ in states:
                observer.load_state_dict(states[type(observer).__name__])

    def on_end(self) -> None:
        """Tell of the end, whatever it was."""
        for observer in self._observers:
            observer.on_end()


def built_observers(named: Mapping[str, Mapping[str, Any]]) -> list[Observer]:
    """The observers that a config names, with their hyperparameters."""
    return [OBSERVERS.get(name)(**values) for name, values in named.items()]
