"""An optimiser and a scheduler, tried on parameters of a few numbers before anything is trained."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from kd_core.config import Builder, Policy
from kd_core.config.schema import SchedulerSpec, StageSpec
from kd_core.config.syntax.tree import dotted
from kd_core.errors import ConfigError, ConfigProblem, foreign_errors
from kd_core.plan.plan import StagePlan
from kd_core.train.dot import check_dot
from kd_core.train.doubts import without_validation
from kd_core.train.optim import build_scheduler, groups_of, optimizer_of
from kd_core.train.sam import check_closure, needs_closure

OPTIMIZER_STEPS = 3
SCHEDULER_STEPS = 1000
"""Steps that are tried at most."""
DUMMY_STEPS_PER_EPOCH = 100
"""Steps of an epoch where only reading the data would tell."""


def dummy_steps(stage: StageSpec) -> dict[str, int]:
    """What ``!run`` stands for, of a stage, before the data are read, as far as the config tells.

    Few steps would be too few for schedules that are right: the warm-up of one has a length of its own.
    """
    per_epoch = DUMMY_STEPS_PER_EPOCH
    steps = stage.steps or per_epoch * (stage.epochs or 1)
    return {"steps": steps, "steps_per_epoch": per_epoch, "batch_size": stage.batch_size or 1}


def known_scheduler_steps(stage: StageSpec, interval: str, steps: tuple[int, int] | None = None) -> int:
    """How often a stage steps its scheduler: at least, or exactly, with the ``steps`` of an epoch and in all."""
    if steps is not None:
        return steps[1] if interval == "step" else math.ceil(steps[1] / steps[0])
    return (stage.steps or stage.epochs or 1) if interval == "step" else (stage.epochs or 1)


def try_training(
    stage: StagePlan, groups: Sequence[dict[str, Any]], builder: Builder, steps: tuple[int, int] | None = None
) -> LRScheduler | None:
    """Build a stage's optimiser and scheduler over small parameters and step them; KDError where one of them fails.

    ``groups`` are those of :func:`~kd_core.train.optim.parameter_groups`, with :func:`small` parameters. With ``steps``
    (those of an epoch, and in all) only the scheduler is tried.
    """
    spec, where = stage.spec, dotted(stage.path("scheduler"))
    assert spec.optimizer is not None
    optimizer = optimizer_of(spec.optimizer, groups, builder, dotted(stage.path("optimizer")))
    check_dot(optimizer, stage)
    check_closure(optimizer, stage)
    scheduler, interval = build_scheduler(spec.scheduler, optimizer, builder, where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if steps is None:
            with foreign_errors(f"a step of {type(optimizer).__name__}", *stage.path("optimizer")):
                _step(optimizer)
        if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
            _try_scheduler(scheduler, known_scheduler_steps(spec, interval, steps), stage)
    return scheduler


def _step(optimizer: Optimizer) -> None:
    def gradients() -> Tensor:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.full_like(parameter, 0.1)
        return torch.ones(())

    for _ in range(OPTIMIZER_STEPS):
        gradients()
        optimizer.step(*([gradients] if needs_closure(optimizer) else []))  # type: ignore[arg-type]


def _try_scheduler(scheduler: LRScheduler, steps: int, stage: StagePlan) -> None:
    """Step as often as the stage will."""
    name = type(scheduler).__name__
    if isinstance(scheduler, OneCycleLR) and steps > scheduler.total_steps:
        by_step = isinstance(stage.spec.scheduler, SchedulerSpec) and stage.spec.scheduler.interval == "step"
        message = f"{name} ends after {scheduler.total_steps} steps, and this stage steps it {steps} times"
        value = "!run steps" if by_step else str(steps)
        hint = f"write `total_steps: {value}`"
        raise ConfigError(ConfigProblem(message, dotted(stage.path("scheduler")), hint=hint))
    for step in range(1, min(steps, SCHEDULER_STEPS) + 1):
        with foreign_errors(f"step {step} of {name}", *stage.path("scheduler")):
            scheduler.step()


def small(parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Parameters with values in the place of others: two numbers a dimension, one for each type and number of them."""
    kinds = dict.fromkeys((parameter.ndim, parameter.dtype) for parameter in parameters)
    return [nn.Parameter(torch.full((2,) * dimensions, 0.5, dtype=dtype)) for dimensions, dtype in kinds]


def check_steps(
    stage: StagePlan, policy: Policy, values: Mapping[str, Any], steps: tuple[int, int], *, validates: bool = True
) -> None:
    """KDError for what does not go with the data: a scheduler that does not last for the steps that there are.

    Also for what waits for validations where no sample ``validates``. ``values`` are what ``!run`` stands for, beside
    the ``steps`` of an epoch and in all.
    """
    per_epoch, total = steps
    numbers = {"steps": total, "steps_per_epoch": per_epoch, "batch_size": stage.spec.batch_size}
    builder = Builder(policy, {**values, **numbers})
    scheduler = try_schedule(stage, builder, steps)
    if not validates and (problems := without_validation(stage, scheduler)):
        raise ConfigError(problems)


def try_schedule(stage: StagePlan, builder: Builder, steps: tuple[int, int]) -> LRScheduler | None:
    """The same with the steps that the data make, before anything is written; the models need not be there."""
    if stage.spec.scheduler is None or stage.spec.optimizer is None:
        return None
    named = [
        {"params": small([nn.Parameter(torch.zeros(2, 2))]), **group.extra} for group in groups_of(stage.spec.optimizer)
    ]
    rest = {"params": small([nn.Parameter(torch.zeros(2, 2))])}
    try:
        return try_training(stage, [rest, *named], builder, steps)
    except ConfigError:
        if not named:
            raise
        return try_training(stage, named, builder, steps)  # the named groups may be all there are
