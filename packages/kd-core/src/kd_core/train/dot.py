"""DOT: an optimiser that keeps one momentum for the gradients of the task and a longer one for those of distillation.

Zhao, Cui, Song & Liang, *DOT: A Distillation-Oriented Trainer*, ICCV 2023; checked against megvii-research/mdistiller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_core.device.distributed import all_reduce_sum_, world_size
from kd_core.errors import KDError, did_you_mean
from kd_core.plan.plan import StagePlan
from kd_core.ranges import Momentum, NonNegativeFloat, PositiveFloat, checked


@checked
class DOT(Optimizer):
    """SGD of two momenta: ``momentum - delta`` for the gradient of the terms ``task``, ``momentum + delta`` of others.

    A parameter that only one of the two reaches has the momentum ``momentum``. ``weight_decay`` goes with the task's
    gradient, or with distillation's of a parameter that the task does not reach. KDError where a value is out of its
    range, or ``delta`` leaves no momentum between 0 and 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: NonNegativeFloat,
        task: Sequence[str],
        momentum: Momentum = 0.9,
        delta: PositiveFloat = 0.075,
        dampening: NonNegativeFloat = 0.0,
        weight_decay: NonNegativeFloat = 0.0,
    ) -> None:
        if not delta < momentum < 1 - delta:
            raise KDError(f"momentum {momentum} less and plus delta {delta} must be above 0 and below 1", path="delta")
        values = {"lr": lr, "momentum": momentum, "delta": delta, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, values)
        self.task = [task] if isinstance(task, str) else list(task)
        self.distillation: dict[nn.Parameter, Tensor] = {}
        """The gradients of the other terms, for one step; those of the task are where other optimisers look."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move the parameters by both momenta, and forget the gradients of distillation."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._move(parameter, parameter.grad, self.distillation.get(parameter), group)
        self.distillation = {}

    def _move(
        self, parameter: nn.Parameter, task: Tensor | None, distilled: Tensor | None, group: Mapping[str, Any]
    ) -> None:
        momentum, decay, state = group["momentum"], group["weight_decay"], self.state[parameter]
        apart = group["delta"] if task is not None and distilled is not None else 0.0
        steps = []
        if task is not None:
            task = task.add(parameter, alpha=decay) if decay else task
            steps.append(_averaged(state, "momentum_buffer", task, momentum - apart, group["dampening"]))
        if distilled is not None:
            if task is None and decay and "momentum_kd_buffer" in state:  # not at first, as in the authors' code
                distilled = distilled.add(parameter, alpha=decay)
            steps.append(_averaged(state, "momentum_kd_buffer", distilled, momentum + apart, group["dampening"]))
        for step in steps:
            parameter.add_(step, alpha=-group["lr"])


def _averaged(state: dict[str, Any], name: str, gradient: Tensor, momentum: float, dampening: float) -> Tensor:
    """The moving average ``name`` of gradients with this one in it."""
    if name in state:
        state[name].mul_(momentum).add_(gradient, alpha=1 - dampening)
    else:
        state[name] = gradient.detach().clone()
    average: Tensor = state[name]
    return average


def check_dot(optimizer: Optimizer, stage: StagePlan, *, fp16: bool = False, sharded: bool = False) -> None:
    """KDError where ``optimizer`` is DOT and its terms, or what it is combined with, do not go with the stage."""
    if any(isinstance(part, DOT) for part in getattr(optimizer, "parts", ())):
        raise KDError("DOT steps all that learns, and is not combined with another").at(*stage.path("optimizer"))
    if not isinstance(optimizer, DOT):
        return
    for name in optimizer.task:
        if name not in stage.terms:
            message, hint = f"DOT's task names no term {name!r}", did_you_mean(name, list(stage.terms))
            raise KDError(message, hint=hint).at(*stage.path("optimizer"))
    if not optimizer.task or set(optimizer.task) == set(stage.terms):
        message = "DOT tells the task's terms from distillation's, and here all are of one kind"
        raise KDError(message, hint="write `task: [ce]`, and keep a term that distils").at(*stage.path("optimizer"))
    if stage.spec.max_grad_norm is not None or stage.spec.max_grad_value is not None:
        raise KDError("DOT takes two gradients, and clips none").at(*stage.path("optimizer"))
    if fp16 or sharded:
        what = "parameters are sharded (FSDP)" if sharded else "gradients are scaled (fp16)"
        raise KDError(f"DOT cannot be used where {what}").at(*stage.path("optimizer"))


class SeparateGradients:
    """The gradients of the task's weighted terms and of all others, added up over the micro-batches of one step."""

    def __init__(self, optimizer: DOT, names: Sequence[str], parameters: Sequence[nn.Parameter]) -> None:
        self.optimizer, self.parameters = optimizer, list(parameters)
        self.of_task = [name in optimizer.task for name in names]
        self._sums: dict[bool, list[Tensor | None]] = {}

    def add(self, weighted: Sequence[Tensor]) -> None:
        """Add those of a micro-batch, whose graph ends here."""
        for task in (False, True):
            chosen = [w for w, own in zip(weighted, self.of_task, strict=True) if own is task and w.requires_grad]
            if not chosen:
                continue
            total = torch.stack(chosen).sum()
            parts = torch.autograd.grad(total, self.parameters, retain_graph=not task, allow_unused=True)
            sums = self._sums.get(task, [None] * len(parts))
            self._sums[task] = [
                old if new is None else new if old is None else old + new for old, new in zip(sums, parts, strict=True)
            ]

    def give(self) -> None:
        """Hand them to the optimiser: the means over the processes."""
        if world_size() > 1:
            for each in [each for sums in self._sums.values() for each in sums if each is not None]:
                all_reduce_sum_(each).div_(world_size())
        nothing: list[Tensor | None] = [None] * len(self.parameters)
        for parameter, gradient in zip(self.parameters, self._sums.get(True, nothing), strict=True):
            parameter.grad = gradient
        distilled = zip(self.parameters, self._sums.get(False, nothing), strict=True)
        self.optimizer.distillation = {parameter: each for parameter, each in distilled if each is not None}
        self._sums = {}
