"""``steps.jsonl``: the losses, learning rates and speed of every so many steps of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.files import append, json_text, write_bytes
from kd_core.observers import Observer, RunEvent, StepEvent, ValidationEvent

Row = dict[str, Any]
BLOCK = 64
"""Steps for whose values there is room on the device at first; it doubles where lines are further apart."""


class StepLog(Observer):
    """Writes a line to ``file`` after every ``log_every`` steps of a stage, and gives it to each of ``readers``.

    A line has the means over the steps since the line before: the weighted sum (``loss``), the terms' losses without
    their weights (``terms``) and with them (``weighted``), and ``grad_norm``, the norm before clipping, where gradients
    are clipped by norm. ``lr`` is that of the last step, a list where there are several parameter groups.
    Nothing is read from the device between two lines. The steps since the last line are in every checkpoint, so that a
    run that goes on writes the same lines, ``samples_per_second`` apart.
    """

    def __init__(self, file: Path, log_every: int, readers: Sequence[Callable[[Row], None]] = ()) -> None:
        self.file, self.log_every, self.readers = file, log_every, readers
        self._rows: Tensor | None = None
        """Values of the steps since the last line, and in a last column their norms where there are norms."""
        self._count, self._has_norms = 0, False
        self._weights: list[list[float]] = []
        self._before: tuple[list[list[float]], list[float]] = ([], [])
        """Values and norms of steps before the run was resumed."""
        self._samples, self._seconds = 0, 0.0
        self._last: StepEvent | None = None

    def on_start(self, event: RunEvent) -> None:
        """Keep the lines of steps that a resumed run does not repeat."""
        self._writes = event.is_main
        if self._writes:
            keep_steps(self.file, event.total)

    def after_step(self, event: StepEvent) -> None:
        """Keep the step's values on the device, and write a line where one is due."""
        if not self._writes:
            return
        self._keep(event.values, event.grad_norm)
        self._weights.append(list(event.weights))
        self._samples, self._seconds = self._samples + event.samples, self._seconds + event.seconds
        self._last = event
        if event.step % self.log_every == 0 or event.step == event.steps:
            self._write(event)

    def _keep(self, values: Tensor, norm: Tensor | None) -> None:
        """Add a step's row on the device; no tensor of a step outlives it."""
        self._has_norms = norm is not None
        width = len(values) + self._has_norms
        if self._rows is None or self._rows.shape[1] != width:  # of another stage
            self._rows = values.new_empty(BLOCK, width)
        elif self._count == len(self._rows):
            self._rows = torch.cat([self._rows, torch.empty_like(self._rows)])
        row = self._rows[self._count]
        row[: len(values)] = values
        if norm is not None:
            row[-1] = norm.detach()
        self._count += 1

    def after_validation(self, event: ValidationEvent) -> None:
        """Write the line of the last steps of a stage that ends early."""
        if event.stopping and self._weights and self._last is not None:
            self._write(self._last)

    def _write(self, event: StepEvent) -> None:
        """Read the steps since the last line, and write their means."""
        values, norms = self._read()
        columns = list(zip(*values, strict=True))
        rates = [float(rate) for rate in event.learning_rates]
        weighted = [
            mean([value * step[number] for value, step in zip(columns[number], self._weights, strict=True)])
            for number in range(len(event.names))
        ]
        line = {
            "stage": event.stage,
            "epoch": event.epoch,
            "step": event.step,
            "total": event.total,
            "loss": mean(columns[-1]),
            "terms": dict(zip(event.names, map(mean, columns), strict=False)),
            "weighted": dict(zip(event.names, weighted, strict=True)),
            "lr": rates[0] if len(rates) == 1 else rates,
            **({"grad_norm": mean(norms)} if norms else {}),
            "samples_per_second": round(self._samples / self._seconds, 1) if self._seconds else None,
        }
        self._count, self._weights, self._before = 0, [], ([], [])
        self._samples, self._seconds = 0, 0.0
        append(self.file, json_text(line) + "\n")
        for reader in self.readers:
            reader(line)

    def _read(self) -> tuple[list[list[float]], list[float]]:
        """The values of each step since the last line, (N, T + 1), and their norms; it waits for the device."""
        rows: list[list[float]] = [] if self._rows is None else self._rows[: self._count].tolist()
        norms = [row.pop() for row in rows] if self._has_norms else []
        return self._before[0] + rows, self._before[1] + norms

    def state_dict(self) -> dict[str, Any]:
        """The steps since the last line."""
        values, norms = self._read()
        return {"values": values, "norms": norms, "weights": list(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after those steps. Their time is not in the state: speed is that of the steps that follow."""
        self._before, self._weights = (state["values"], state["norms"]), list(state["weights"])


def mean(values: Sequence[float]) -> float:
    """The mean of numbers, added up in their order."""
    return sum(values) / len(values)


def keep_steps(file: Path, total: int) -> None:
    """Keep of a file of JSON lines those of the first ``total`` steps of a run, by their key ``total``.

    A half line at its end, which a killed process left, goes too; KDError that names a damaged one.
    """
    if not file.exists():
        return
    whole = file.read_bytes().rpartition(b"\n")[0]
    lines = whole.split(b"\n") if whole else []
    kept = [line for number, line in enumerate(lines, 1) if _total(file, number, line) <= total]
    write_bytes(file, b"".join(line + b"\n" for line in kept))


def _total(file: Path, number: int, line: bytes) -> int:
    """The step over all stages that a line is of; KDError where it is damaged."""
    try:
        return int(json.loads(line)["total"])
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise KDError(f"{file}:{number}: is damaged", hint="take the line away, or the file") from error
