"""Runs that train nothing, or something that nobody meant: what is certain is an error, what is doubtful a warning."""

from __future__ import annotations

from collections.abc import Mapping, Set

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from kd_core.config.syntax.tree import dotted
from kd_core.errors import ConfigProblem, KDError
from kd_core.plan.plan import StagePlan


def without_validation(stage: StagePlan, scheduler: LRScheduler | None) -> list[ConfigProblem]:
    """What a stage asks for that needs a validation split, where there is none."""
    problems = []
    hint = "`data.val` holds out training samples, all but those of `val: 0`"
    if stage.spec.early_stopping is not None:
        message = "early stopping waits for validations, and there is no validation split"
        problems.append(ConfigProblem(message, dotted(stage.path("early_stopping")), hint=hint))
    if isinstance(scheduler, ReduceLROnPlateau):
        message = "ReduceLROnPlateau follows validations, and there is no validation split"
        problems.append(ConfigProblem(message, dotted(stage.path("scheduler")), hint=hint))
    if stage.candidates:
        message = "candidates are compared in validation, and there is no validation split"
        problems.append(ConfigProblem(message, dotted(stage.path("candidates")), hint=hint))
    return problems


def untrained(
    stage: StagePlan, roots: Set[str], trained: Set[str], adapters: nn.Module, losses: nn.Module
) -> ConfigProblem | None:
    """The problem of a stage that trains nothing: all weights are 0, or no term looks at anything that learns.

    ``roots`` are the models that the stage looks at, ``trained`` those that learn.
    """
    if stage.terms and all(term.weight == 0 for term in stage.terms.values()):
        return ConfigProblem("trains nothing: the weight of every term is 0", dotted(stage.path("losses")))
    seen = set(trained) & roots
    learning = any(parameter.requires_grad for part in (adapters, losses) for parameter in part.parameters())
    if seen or learning:
        return None
    names = ", ".join(sorted(trained)) or "nothing"
    message = f"trains nothing: no term looks at what learns ({names})"
    return ConfigProblem(message, dotted(stage.path("losses")), hint="name a wire of it, such as student.output")


def check_parameters(named: Mapping[str, Tensor], stage: str, step: int) -> None:
    """KDError where a step left a parameter that is not finite: its loss, computed before, was."""
    if not named:
        return
    tensors = [getattr(item.detach(), "_local_tensor", item.detach()) for item in named.values()]
    finite = torch.stack([norm.isfinite() for norm in torch._foreach_norm(tensors, torch.inf)]).tolist()
    broken = [name for name, whole in zip(named, finite, strict=True) if not whole]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        message = f"step {step}: the update left parameters that are not finite: {', '.join(broken[:3])}{more}"
        hint = "a smaller learning rate, or `max_grad_norm`"
        raise KDError(message, path=f"stages.{stage}", hint=hint)
