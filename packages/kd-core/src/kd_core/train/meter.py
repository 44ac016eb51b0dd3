"""The losses of an epoch: their means, and the notice that one is not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kd_core.device.distributed import all_gather_object, all_reduce_sum_, world_size
from kd_core.device.transfer import Arrival
from kd_core.errors import KDError

TOTAL = "the weighted sum"
MASKED = "where the student masks a class (a logit of minus infinity), mask it in the teacher and the labels too"
"""What an infinite loss often comes of: something has a share that the student cannot give it."""
FEW = 3
"""Steps of which it means nothing that their losses are equal."""


class LossMeter:
    """Adds up a stage's losses, weighted by samples, on the device: nothing is read from it before it must be.

    Values are those of all terms, in order, and the weighted sum, last. A loss that is not finite is noticed one step
    late, when its value has arrived: looking at once would stall a GPU in every step.
    """

    def __init__(self, stage: str, names: Sequence[str], device: torch.device) -> None:
        self.stage, self.names = stage, list(names)
        wide = torch.float64 if device.type != "mps" else torch.float32  # mps has no float64
        self._sums = torch.zeros(len(self.names) + 1, device=device, dtype=wide)
        self._samples = 0
        self._pending: tuple[int, Tensor, Arrival] | None = None
        self._first = torch.zeros((), device=device, dtype=wide)
        self._varies = torch.zeros((), device=device, dtype=torch.bool)
        self._steps = 0

    def zeros(self) -> Tensor:
        """Where the micro-batches of a step add up their losses."""
        return torch.zeros_like(self._sums)

    def add(self, step: int, losses: Tensor, index: Tensor, samples: int) -> Tensor:
        """Add the ``losses`` of a step; the means over processes. ``index`` are the samples' rows, for messages.

        KDError where a loss of the step before was not finite.
        """
        losses = all_reduce_sum_(losses) / world_size()
        self._sums += losses * samples
        self._samples += samples
        self._first = losses[-1].clone() if self._steps == 0 else self._first
        self._varies |= losses[-1] != self._first
        self._steps += 1
        sent = Arrival(losses)
        self.check_finite()
        self._pending = (step, index, sent)
        return losses

    def check_finite(self) -> None:
        """KDError where the last unchecked step had a loss that is not a number or infinite."""
        if self._pending is None:
            return
        step, index, losses = self._pending[0], self._pending[1], self._pending[2].get()
        self._pending = None
        if bool(torch.isfinite(losses).all()):
            return
        values = list(zip([*self.names, TOTAL], losses.tolist(), strict=True))
        names = [name for name, value in values if not math.isfinite(value)]
        rows = ", ".join(str(row) for part in all_gather_object(index.tolist()) for row in part)
        message = f"step {step}: not finite: {', '.join(names)}\n    the batch's indices: {rows}"
        hint = MASKED if any(math.isinf(value) for _, value in values) else None
        raise KDError(message, path=f"stages.{self.stage}", hint=hint)

    def mean_loss(self) -> float:
        """The mean weighted sum of the epoch so far; it waits for the device."""
        return float(self._sums[-1]) / max(self._samples, 1)

    def means(self) -> dict[str, float]:
        """The means of the epoch so far: ``loss``, the weighted sum, and each term by name."""
        means = (self._sums / max(self._samples, 1)).tolist()
        return {"loss": means[-1], **dict(zip(self.names, means, strict=False))}

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums.zero_()
        self._samples = 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the epoch so far."""
        return {
            "sums": self._sums,
            "samples": self._samples,
            "first": self._first,
            "varies": self._varies,
            "steps": self._steps,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        self._sums.copy_(state["sums"])
        self._samples, self._steps = state["samples"], state["steps"]
        self._first.copy_(state["first"])
        self._varies.copy_(state["varies"])

    def constant(self) -> float | None:
        """The loss of every step of the stage, where it was the same in all; None where it varied, or steps are few."""
        return None if self._steps < FEW or bool(self._varies) else float(self._first)
