"""What a stage trains: which parameters learn, which models run, and in which mode."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from typing import Protocol
from weakref import WeakKeyDictionary

from torch import nn

from kd_core.data.batch import STUDENT
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError
from kd_core.plan.plan import Plan, StagePlan
from kd_core.taps.edits import matching
from kd_core.taps.wrappers import ForwardWrapper, Teacher
from kd_core.train.values import Adapters


class FrozenWhenBuilt:
    """The parameters that were frozen when their module was built: by its constructor, or by an edit.

    A parameter is known by its module and its name there, so that it does not matter what is selected in between. One
    that several modules share is frozen in all of them.
    """

    def __init__(self) -> None:
        self._names: WeakKeyDictionary[nn.Module, frozenset[str]] = WeakKeyDictionary()

    def remember(self, module: nn.Module) -> None:
        """Take down what is frozen in a module that was just built; what is known already stays as it is."""
        for part in module.modules():
            frozen = (name for name, item in part._parameters.items() if item is not None and not item.requires_grad)
            self._names.setdefault(part, frozenset(frozen))

    def ids(self, root: nn.Module) -> set[int]:
        """The ids of those parameters beneath ``root``."""
        return {id(part._parameters[name]) for part in root.modules() for name in self._names.get(part, ())}


class TrainableComponents(Protocol):
    """What a stage can train, beside its losses."""

    @property
    def plan(self) -> Plan:
        """The validated, fully resolved config."""

    @property
    def models(self) -> Mapping[str, nn.Module]:
        """The models by name."""

    @property
    def adapters(self) -> Adapters:
        """The adapters of all stages."""

    @property
    def frozen(self) -> FrozenWhenBuilt:
        """The parameters that were frozen in their constructors."""


class RunnableComponents(TrainableComponents, Protocol):
    """The same, with how models are run."""

    @property
    def runtime(self) -> Runtime:
        """Where and how models are run."""


class ModuleRoot(nn.Module):
    """Everything a run is made of; errors about patterns call it "the run"."""

    def _get_name(self) -> str:
        return "the run"


def root_module(models: Mapping[str, nn.Module], adapters: nn.Module, losses: nn.Module | None = None) -> nn.Module:
    """One module over everything, in which patterns such as ``student.layer1`` or ``adapters.*`` are looked up."""
    root = ModuleRoot()
    for name, model in models.items():
        root.add_module(name, model)
    root.add_module("adapters", adapters)
    if losses is not None:
        root.add_module("losses", losses)
    return root


def select(components: TrainableComponents, stage: StagePlan, losses: nn.Module) -> tuple[nn.Module, set[str]]:
    """Set what learns in a stage; the root module of its paths, and the models of which something learns.

    By default the student and trainable models, where the stage looks at them, and all adapters and losses it uses. A
    parameter that was frozen when its model, adapter or loss was built, by its constructor or an edit, stays so: only
    a pattern of ``train:`` that goes on below that name, as ``student.backbone`` or ``adapters.proj.0``, unfreezes it,
    neither the default nor a plain ``student``, ``adapters.proj`` or ``losses``, a glob in the place of that name or a
    ``class:NAME``. What ``freeze:`` names does not learn in any case. This holds for each stage by itself.
    """
    root = root_module(components.models, components.adapters, losses)
    frozen = components.frozen.ids(root)
    learning: dict[int, nn.Parameter] = {}
    patterns = [*_default(components, stage), "losses"] if stage.spec.train is None else stage.spec.train
    for position, pattern in enumerate(patterns):
        parameters = _matched(root, pattern, stage, "train", position)
        thawed = [item for item in parameters if _names_a_part(pattern) or id(item) not in frozen]
        if parameters and not thawed and stage.spec.train is not None:
            message = f"all parameters of {pattern!r} were frozen when it was built"
            hint = "to train them all the same, write the paths of its parts, as in `student.*`"
            raise KDError(message, hint=hint).at(*stage.path("train"), position)
        learning |= {id(item): item for item in thawed}
    for position, pattern in enumerate(stage.spec.freeze):
        for item in _matched(root, pattern, stage, "freeze", position):
            learning.pop(id(item), None)
    root.requires_grad_(False)
    for item in learning.values():
        item.requires_grad_(True)
    return root, {
        name
        for name, model in components.models.items()
        if any(parameter.requires_grad for parameter in model.parameters())
    }


def set_stage_mode(components: TrainableComponents, stage: StagePlan, name: str) -> None:
    """Put a model into the mode in which a stage will run it, whose adapters and losses need not be built yet.

    KDErrors of patterns are left to :func:`select`.
    """
    model, root = components.models[name], root_module(components.models, nn.Module())
    frozen, learning = components.frozen.ids(root), set()
    for pattern in _default(components, stage) if stage.spec.train is None else stage.spec.train:
        with suppress(KDError):
            selected = {id(item) for _, item in matching(root, pattern)}
            learning |= selected if _names_a_part(pattern) else selected - frozen
    for pattern in stage.spec.freeze:
        with suppress(KDError):
            learning -= {id(item) for _, item in matching(root, pattern)}
    if learning.isdisjoint(map(id, model.parameters())):
        model.train(components.plan.models[name].mode == "train")
        return
    model.train()
    for module in _without(learning, model):
        module.eval()


def _without(learning: Container[int], model: nn.Module) -> Iterator[nn.Module]:
    """The modules that have parameters of which none learns."""
    for module in model.modules():
        parameters = [id(parameter) for parameter in module.parameters()]
        if parameters and not any(parameter in learning for parameter in parameters):
            yield module


def _names_a_part(pattern: str) -> bool:
    """Whether a pattern goes on below the name of a model, an adapter or a loss."""
    first, *rest = pattern.split(".")
    if first.startswith("class:") or any(letter in first for letter in "*?["):
        return False
    return len(rest) >= (2 if first in ("adapters", "losses") else 1)


def _default(components: TrainableComponents, stage: StagePlan) -> list[str]:
    used = components.plan.taps(stage)
    names = [
        name for name, spec in components.plan.models.items() if name in used and (name == STUDENT or spec.trainable)
    ]
    return names + [f"adapters.{name}" for name in stage.adapters if has_parameters(components.adapters, name)]


def has_parameters(module: nn.Module, name: str) -> bool:
    """Whether a child is there and has parameters: borrowed modules and pooling are not trained."""
    child = dict(module.named_children()).get(name)
    return child is not None and next(child.parameters(), None) is not None


def _matched(root: nn.Module, pattern: str, stage: StagePlan, key: str, position: int) -> list[nn.Parameter]:
    if pattern == "losses":  # most losses have no parameters
        return list(root.get_submodule("losses").parameters())
    try:
        return [parameter for _, parameter in matching(root, pattern)]
    except KDError as error:
        raise error.at(*stage.path(key), position) from None


def wrap(
    components: RunnableComponents, stage: StagePlan, trained: set[str]
) -> tuple[dict[str, ForwardWrapper], dict[str, Teacher]]:
    """The models a stage uses: those that learn, and those it only looks at; both stop at their deepest tap.

    One that learns does so where nothing after that tap is in training mode. One without a tap is not run.
    """
    learning: dict[str, ForwardWrapper] = {}
    frozen: dict[str, Teacher] = {}
    for name, taps in components.plan.taps(stage).items():
        model, call = components.models[name], components.plan.task.call
        stops = not components.runtime.traces(name, model, learns=name in trained) or not taps
        if name in trained:
            learning[name] = ForwardWrapper(model, taps, name=name, call=call, early_stop=stops, spare=True)
        else:
            moves = components.plan.models[name].mode == "train"
            cheap = components.runtime.optimize_for_inference(model, taps) if taps and stops and not moves else model
            frozen[name] = Teacher(cheap, taps, name=name, call=call, train_mode=moves, early_stop=stops)
    still = {name: teacher for name, teacher in frozen.items() if not teacher.train_mode}
    components.runtime.compile({**learning, **still}, set(learning), micro_batches=stage.spec.accumulation_steps)
    return learning, frozen


def set_modes(learning: Mapping[str, nn.Module], root: nn.Module) -> None:
    """Train mode for what learns. A module whose parameters are all frozen runs in eval mode: its statistics stay."""
    for part in (*learning.values(), root.get_submodule("adapters"), root.get_submodule("losses")):
        part.train()
        for module in _without({id(item) for item in part.parameters() if item.requires_grad}, part):
            module.eval()
