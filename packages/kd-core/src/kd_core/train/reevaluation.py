"""Evaluating a batch again in a step, for optimisers that take a closure: SAM, L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from kd_core.data.batch import Batch
from kd_core.device.distributed import MicroBatchShard
from kd_core.runs.checkpoint import rng_state, set_rng_state
from kd_core.taps.wrappers import Capture
from kd_core.train.probe import Snapshot
from kd_core.train.sam import Closure


class MicroBatch(NamedTuple):
    """What a step computes its losses from, but for the models that learn."""

    batch: Batch
    frozen: Mapping[str, Capture]
    """What the frozen models give."""
    shard: MicroBatchShard
    shares: Mapping[str, Tensor]
    last: bool
    """Whether it is the last one of its batch."""


class Reevaluation:
    """Evaluates a batch as often as an optimiser asks, each time as it was evaluated first, but for the weights.

    Each evaluation sees the same samples, teachers' outputs, memories, statistics and random numbers. What it makes of
    buffers and random states is undone: after the step they are as the first evaluation left them.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module, self.before = module, Snapshot([module])
        self.micro_batches: list[tuple[MicroBatch, dict[str, Any]]] = []
        """Those of the batch, each with the random states that the models ran with."""

    def kept(self, micro_batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """The micro-batches as they come, which are kept."""
        for micro_batch in micro_batches:
            self.micro_batches.append((micro_batch, rng_state()))
            yield micro_batch

    def _again(self) -> Iterator[MicroBatch]:
        for micro_batch, random in self.micro_batches:
            set_rng_state(random)
            yield micro_batch

    def closure(self, loss: Tensor, evaluate: Callable[[Iterable[MicroBatch]], tuple[Tensor, Any]]) -> Closure:
        """What the optimiser calls. The first time the gradients are there already, and ``loss`` is their loss."""
        first = True

        def closure() -> Tensor:
            nonlocal first
            if first:
                first = False
                return loss
            after = Snapshot([self.module])
            self.before.restore()
            losses, _ = evaluate(self._again())
            after.restore()
            return losses[-1]

        return closure
