"""Optimisers with parameter groups by pattern, and learning-rate schedulers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from kd_core.config import Builder, Call, Lazy
from kd_core.config.chains import chained
from kd_core.config.schema import GroupSpec, OptimizerSpec, SchedulerSpec, StageSpec, as_list
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean
from kd_core.taps.edits import matching
from kd_core.train.combined import CombinedOptimizer


def trained(root: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by their path from ``root``; a shared one under its first path."""
    return {name: parameter for name, parameter in root.named_parameters() if parameter.requires_grad}


def build_optimizer(
    spec: Lazy | OptimizerSpec, root: nn.Module, builder: Builder, path: str, *, fused: bool = False
) -> Optimizer:
    """The optimiser over everything under ``root`` that learns; see :func:`parameter_groups`."""
    return optimizer_of(spec, parameter_groups(spec, root, path), builder, path, fused=fused)


def parameter_groups(spec: Lazy | OptimizerSpec, root: nn.Module, path: str) -> list[dict[str, Any]]:
    """The parameters under ``root`` that learn, as an optimiser takes them.

    A parameter belongs to the first group with a pattern that matches it, else to a group of its own before
    the named ones. KDError for a group without a parameter that learns.
    """
    left = trained(root)
    if not left:
        raise ConfigError(ConfigProblem("nothing is left to train: every parameter is frozen", path))
    named = [
        _group(options, root, left, f"{path}.groups.{position}") for position, options in enumerate(groups_of(spec))
    ]
    return [{"params": list(left.values())}, *named] if left else named


def groups_of(spec: Lazy | OptimizerSpec) -> list[GroupSpec]:
    """The groups that a config names."""
    return spec.groups if isinstance(spec, OptimizerSpec) else []


def optimizer_of(
    spec: Lazy | OptimizerSpec,
    groups: Sequence[dict[str, Any]],
    builder: Builder,
    path: str,
    *,
    fused: bool = False,
) -> Optimizer:
    """The optimiser of these groups of parameters; KDError for one that no stage can step."""
    call, where = (spec.call, f"{path}.call") if isinstance(spec, OptimizerSpec) else (spec, path)
    named = groups_of(spec)
    own = [(number, group.call) for number, group in enumerate(named, len(groups) - len(named)) if group.call]
    rest = [group for number, group in enumerate(groups) if number not in dict(own)]
    parameters = rest[0]["params"] if len(rest) == 1 and not named else rest
    if not rest:
        raise ConfigError(ConfigProblem("no parameter is left for it: all groups have optimizers of their own", where))
    parts = [_one(call, parameters, builder, where, fused=fused)]
    _check_options(parts[0], named, path)
    for number, other in own:
        where = f"{path}.groups.{number - len(groups) + len(named)}.call"
        parts.append(_one(other, [groups[number]], builder, where, fused=fused))
    return parts[0] if len(parts) == 1 else CombinedOptimizer(parts)


def _one(call: Lazy, parameters: Sequence[Any], builder: Builder, path: str, *, fused: bool) -> Optimizer:
    """An optimiser of one call."""
    extra = {"fused": True} if fused and has_fused(call, builder) else {}
    optimizer = builder.build(call, {"params": parameters, **extra}, path)
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(ConfigProblem(f"{type(optimizer).__name__} is not a torch.optim.Optimizer", path))
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], (int, float, Tensor)) or not math.isfinite(group["lr"]):
            raise ConfigError(
                ConfigProblem(f"{group['lr']!r} is not a valid learning rate", path.removesuffix(".call"))
            )
    return optimizer


def _check_options(optimizer: Optimizer, groups: Sequence[GroupSpec], path: str) -> None:
    """ConfigError for options of groups that PyTorch would take without a word."""
    defaults = list(optimizer.defaults)
    for position, spec in enumerate(groups):
        for key in spec.extra:
            if key not in defaults:
                message, hint = f"{type(optimizer).__name__} has no parameter {key!r}", did_you_mean(key, defaults)
                raise KDError(message, path=f"{path}.groups.{position}.{key}", hint=hint, at_key=True)


def has_fused(call: Lazy, builder: Builder) -> bool:
    """Whether an optimiser has a fused form and the config does not choose one."""
    if not isinstance(call, Call) or {"fused", "foreach"} & set(call.kwargs):
        return False
    return "fused" in inspect.signature(builder.policy.locate(call.target, call.mark)).parameters


def _group(spec: GroupSpec, root: nn.Module, left: dict[str, nn.Parameter], path: str) -> dict[str, Any]:
    """A parameter group; what it takes leaves ``left``."""
    try:
        names = [name for pattern in as_list(spec.params) for name, _ in matching(root, pattern)]
    except KDError as error:
        raise error.at(path, "params") from None
    taken = [left.pop(name) for name in dict.fromkeys(names) if name in left]
    if not taken:
        message = f"{', '.join(as_list(spec.params))} matches no parameter that learns and is in no earlier group"
        raise ConfigError(ConfigProblem(message, f"{path}.params"))
    return {"params": taken, **spec.extra}


def check_plateau(scheduler: LRScheduler | None, stage: StageSpec, best: str, path: str) -> None:
    """ConfigError for a scheduler that follows the monitored metric where it would get no value or look the wrong way.

    ``best`` is ``max`` or ``min``, whichever value of the metric is the better one.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        return
    name = type(scheduler).__name__
    if isinstance(stage.scheduler, SchedulerSpec) and stage.scheduler.interval == "step":
        message, hint = f"{name} follows the validation after an epoch, not single steps", "write `interval: epoch`"
        raise ConfigError(ConfigProblem(message, f"{path}.interval", hint=hint))
    if stage.validate.every_steps is not None:
        message = f"{name} follows the validation after an epoch, and this stage has none"
        raise ConfigError(ConfigProblem(message, path, hint="write `validate: {every_epochs: 1}`"))
    if scheduler.mode != best:
        message = f"{name} has mode {scheduler.mode!r}, but the monitored metric is best at its {best}imum"
        raise ConfigError(ConfigProblem(message, path, hint=f"write `mode: {best}` into the call"))


def build_scheduler(
    spec: Lazy | SchedulerSpec | None, optimizer: Optimizer, builder: Builder, path: str
) -> tuple[LRScheduler | None, str]:
    """The scheduler and whether it steps per ``step`` or per ``epoch``.

    Of several optimisers it follows the first, which no group has for itself.
    """
    optimizer = optimizer.parts[0] if isinstance(optimizer, CombinedOptimizer) else optimizer
    if spec is None:
        return None, "epoch"
    call, interval = (spec.call, spec.interval) if isinstance(spec, SchedulerSpec) else (spec, "epoch")
    where = f"{path}.call" if isinstance(spec, SchedulerSpec) else path
    outer, inner = chained(call)
    if inner:
        parts = [
            builder.build(part, {"optimizer": optimizer}, f"{where}.schedulers.{position}")
            for position, part in enumerate(inner)
        ]
        call = replace(outer, kwargs={**outer.kwargs, "schedulers": parts})
    scheduler = builder.build(call, {"optimizer": optimizer}, where)
    if not isinstance(scheduler, LRScheduler):
        raise ConfigError(
            ConfigProblem(f"{type(scheduler).__name__} is not a torch.optim.lr_scheduler.LRScheduler", path)
        )
    if isinstance(spec, SchedulerSpec) and spec.warmup:
        scheduler = warmed_up(scheduler, optimizer, spec.warmup, spec.warmup_start, path)
    return scheduler, interval


def warmed_up(scheduler: LRScheduler, optimizer: Optimizer, length: int, start: float, path: str) -> LRScheduler:
    """A scheduler that begins after ``length`` steps of a linear rise from ``start`` times the learning rate."""
    if isinstance(scheduler, ReduceLROnPlateau):
        message = f"{type(scheduler).__name__} follows the validation, and cannot begin later"
        raise ConfigError(ConfigProblem(message, f"{path}.warmup"))
    rise = LinearLR(optimizer, start_factor=start, total_iters=length)
    return SequentialLR(optimizer, [rise, scheduler], milestones=[length])
