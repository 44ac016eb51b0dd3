"""SAM: an optimiser that takes its step with the gradients of the worst weights nearby.

Foret, Kleiner, Mobahi & Neyshabur, *Sharpness-Aware Minimization*, ICLR 2021, arXiv:2010.01412; ``adaptive`` is ASAM
(Kwon, Kim, Park & Choi, ICML 2021, arXiv:2102.11600). Checked against davda54/sam.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from kd_core.errors import KDError
from kd_core.plan.plan import StagePlan
from kd_core.ranges import NonNegativeFloat, checked
from kd_core.train.dot import DOT

Closure = Callable[[], Tensor]
"""Computes the gradients of a batch at the weights as they are, and gives the loss."""
SMALL = 1e-12
"""Added to the norm of the gradients, by which they are divided."""


@checked
class SAM(Optimizer):
    """The optimiser of a class ``base_optimizer``, with the gradients at the weights plus ``rho`` along the gradient.

    ``adaptive`` scales the way to those weights by the weights' own size. ``values`` are those of the base optimiser.
    A step evaluates the batch twice.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base_optimizer: Callable[..., Optimizer],
        *,
        rho: NonNegativeFloat = 0.05,
        adaptive: bool = False,
        **values: Any,
    ) -> None:
        if not (inspect.isclass(base_optimizer) and issubclass(base_optimizer, Optimizer)):
            message = f"base_optimizer must be the class of an optimizer, not {base_optimizer!r}"
            raise KDError(message, hint="write `base_optimizer: !get:torch.optim.SGD `")
        super().__init__(params, {"rho": rho, "adaptive": adaptive, **values})
        self.base = base_optimizer(self.param_groups, **values)
        if isinstance(self.base, DOT) or needs_closure(self.base):
            raise KDError(f"{type(self.base).__name__} has steps of its own kind, and SAM cannot stand around it")
        self.defaults.update(self.base.defaults)
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def load_state_dict(self, state_dict: Any) -> None:
        """Put back what ``state_dict`` gave, which is the state of the base optimiser."""
        super().load_state_dict(state_dict)
        self.base.param_groups, self.base.state = self.param_groups, self.state

    @torch.no_grad()
    def step(self, closure: Closure) -> Tensor:  # type: ignore[override]
        """Move the parameters; the loss at the weights as they were before."""
        evaluate = torch.enable_grad()(closure)
        loss = evaluate()
        parameters = [each for group in self.param_groups for each in group["params"] if each.grad is not None]
        before = [parameter.clone() for parameter in parameters]
        self._climb()
        evaluate()
        torch._foreach_copy_(parameters, before)
        self.base.step()
        return loss

    def _climb(self) -> None:
        """Go ``rho`` up along the gradient, whose norm is taken over all groups."""
        groups = [(group, [each for each in group["params"] if each.grad is not None]) for group in self.param_groups]
        ways = [
            [each.grad * each.abs() if group["adaptive"] else each.grad for each in parameters]
            for group, parameters in groups
        ]
        norm = get_total_norm([way for each in ways for way in each])
        for (group, parameters), way in zip(groups, ways, strict=True):
            scale = group["rho"] / (norm + SMALL)
            if group["adaptive"]:
                way = [step * parameter.abs() for step, parameter in zip(way, parameters, strict=True)]
            for parameter, step in zip(parameters, way, strict=True):
                parameter.add_(step * scale.to(parameter))


def needs_closure(optimizer: Optimizer) -> bool:
    """Whether an optimiser evaluates a batch several times in a step, by the closure that its ``step`` takes."""
    return _wants_closure(type(optimizer).step)


@cache
def _wants_closure(step: Callable[..., Any]) -> bool:
    parameter = inspect.signature(step).parameters.get("closure")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def check_closure(optimizer: Optimizer, stage: StagePlan, *, fp16: bool = False, sharded: bool = False) -> None:
    """KDError where an optimiser evaluates a batch several times, and the run cannot let it."""
    for part in filter(needs_closure, getattr(optimizer, "parts", ())):
        message = f"{type(part).__name__} steps all that learns, and is not combined with another"
        raise KDError(message).at(*stage.path("optimizer"))
    if needs_closure(optimizer) and (fp16 or sharded):
        what = "parameters are sharded (FSDP)" if sharded else "gradients are scaled (fp16)"
        message = (
            f"{type(optimizer).__name__} evaluates a batch several times in a step, which is not done where {what}"
        )
        hint = None if sharded else "write `precision: bf16`"
        raise KDError(message, hint=hint).at(*stage.path("optimizer"))
