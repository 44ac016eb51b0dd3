"""What a stage trains: which parameters learn, which models run, and in which mode."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Protocol

from torch import nn

from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.plan.plan import Plan, StagePlan
from kd_core.taps.edits import matching
from kd_core.taps.wrappers import ForwardWrapper, Teacher
from kd_core.train.components import Components, root_module
from kd_core.train.objective import Adapters


class TrainableParts(Protocol):
    """What a stage can train, beside its losses."""

    @property
    def plan(self) -> Plan: ...
    @property
    def models(self) -> Mapping[str, nn.Module]: ...
    @property
    def adapters(self) -> Adapters: ...


def select(world: TrainableParts, stage: StagePlan, losses: nn.Module) -> tuple[nn.Module, set[str]]:
    """Set what learns in a stage; the root module of its paths, and the models of which something learns.

    By default the student and trainable models, where the stage looks at them, and all adapters and losses it uses.
    """
    root = root_module(world.models, world.adapters, losses)
    root.requires_grad_(False)
    for parameter in _matched(
        root, _default(world, stage) if stage.spec.train is None else stage.spec.train, stage, "train"
    ):
        parameter.requires_grad_(True)
    for model, spec in world.plan.models.items():
        frozen_by_edit = [edit["freeze"] for edit in spec.edit if "freeze" in edit]
        for pattern in (each for one in frozen_by_edit for each in ([one] if isinstance(one, str) else one)):
            for _, parameter in matching(world.models[model], pattern):
                parameter.requires_grad_(False)
    for parameter in _matched(root, stage.spec.freeze, stage, "freeze"):
        parameter.requires_grad_(False)
    return root, {
        name for name, model in world.models.items() if any(parameter.requires_grad for parameter in model.parameters())
    }


def _default(world: TrainableParts, stage: StagePlan) -> list[str]:
    used = world.plan.taps(stage)
    names = [name for name, spec in world.plan.models.items() if name in used and (name == STUDENT or spec.trainable)]
    adapters = [f"adapters.{name}" for name in stage.adapters if has_parameters(world.adapters, name)]
    return names + adapters + ["losses"]


def has_parameters(module: nn.Module, name: str) -> bool:
    """Whether a child is there and has parameters: borrowed modules and pooling are not trained."""
    child = dict(module.named_children()).get(name)
    return child is not None and next(child.parameters(), None) is not None


def _matched(root: nn.Module, patterns: list[str], stage: StagePlan, key: str) -> list[nn.Parameter]:
    found: list[nn.Parameter] = []
    for position, pattern in enumerate(patterns):
        if pattern == "losses":  # most losses have no parameters
            found += root.get_submodule("losses").parameters()
            continue
        try:
            found += [parameter for _, parameter in matching(root, pattern)]
        except KDError as error:
            raise error.at(*stage.path(key), position) from None
    return found


def wrap(
    world: Components, stage: StagePlan, trained: set[str], known: Container[str] = ()
) -> tuple[dict[str, ForwardWrapper], dict[str, Teacher]]:
    """The models a stage runs: those that learn, and those it only looks at, which stop at their deepest tap.

    Those whose outputs are ``known`` do not run.
    """
    learning: dict[str, ForwardWrapper] = {}
    frozen: dict[str, Teacher] = {}
    for name, taps in world.plan.taps(stage).items():
        model, call = world.models[name], world.plan.task.call
        if name in trained:
            learning[name] = ForwardWrapper(model, taps, name=name, call=call)
        elif name not in known:
            moves = world.plan.models[name].mode == "train"
            stops = name not in world.runtime.spec.compile
            cheap = world.runtime.optimize_for_inference(model, taps) if stops and not moves else model
            frozen[name] = Teacher(cheap, taps, name=name, call=call, train_mode=moves, early_stop=stops)
    still = {name: teacher for name, teacher in frozen.items() if not teacher.train_mode}
    world.runtime.compile({**learning, **still})
    return learning, frozen


def set_modes(learning: Mapping[str, nn.Module], root: nn.Module) -> None:
    """Train mode for what learns. A module whose parameters are all frozen runs in eval mode: its statistics stay."""
    for part in (*learning.values(), root.get_submodule("adapters"), root.get_submodule("losses")):
        part.train()
        for module in part.modules():
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
