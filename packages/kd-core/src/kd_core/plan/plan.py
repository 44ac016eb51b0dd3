"""A validated config: every call located, every loss input bound to a wire, nothing built yet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kd_core.config import Document, Lazy
from kd_core.config.runtime import RuntimeSpec
from kd_core.config.schedules import Schedule
from kd_core.config.schema import AdapterSpec, CheckpointSpec, ModelSpec, Path, StageSpec
from kd_core.data.batch import Batch
from kd_core.data.views import identity
from kd_core.errors import KDError
from kd_core.taps.wires import Tap, Wire
from kd_core.task import Task

Wired = Wire | list[Wire]
RESERVED = ("adapters", "batch", "losses")
"""Roots of wires and of paths that no model may be named by."""


@dataclass(frozen=True)
class TermPlan:
    """A loss term: ``make`` gives its function, called with the wires' values and the hyperparameters.

    ``lazy`` is set where the loss is a ``!call``; ``is_module`` where the registered loss is a class, whose
    hyperparameters go to its constructor.
    """

    name: str
    path: Path
    loss: Callable[..., Any] | Lazy
    wires: Mapping[str, Wired]
    values: Mapping[str, Any]
    schedules: Mapping[str, Schedule]
    weight: float | Schedule
    detach: frozenset[str]

    def all_wires(self) -> Iterator[Wire]:
        """Every wire it reads."""
        return flat(self.wires.values())


@dataclass(frozen=True)
class AdapterPlan:
    """An adapter: built by ``builder``, by a ``!call``, or borrowed from a model (``borrowed``)."""

    name: str
    path: Path
    spec: AdapterSpec
    builder: Callable[..., Any] | Lazy | None
    borrowed: Wired | None
    """The module that it shares, or with ``each`` one for each item of its inputs."""
    inputs: list[Wired] | Mapping[str, Wired]
    """What the module is called with: one by one, or by names."""
    match: Wired | None
    values: Mapping[str, Any]
    taps: Mapping[str, Wire] = field(default_factory=dict)
    """The places that its output has of the model that it runs, by name; without any it is the model's own output."""

    def all_wires(self) -> Iterator[Wire]:
        """Every wire it reads, in building and in running."""
        yield from flat(self.wired)
        yield from self.matches

    @property
    def matches(self) -> list[Wire]:
        """The wires of ``match``."""
        return [] if self.match is None else list(flat([self.match]))

    @property
    def shared(self) -> list[Wire]:
        """The wires of the modules that it borrows."""
        return [] if self.borrowed is None else list(flat([self.borrowed]))

    @property
    def runs(self) -> list[str]:
        """The models that it runs as a whole."""
        return [] if self.spec.fresh else [wire.root for wire in self.shared if wire.tap == Tap("")]

    @property
    def wired(self) -> list[Wired]:
        """The inputs without their names."""
        return list(self.inputs.values()) if isinstance(self.inputs, Mapping) else self.inputs


@dataclass(frozen=True)
class StagePlan:
    """A stage with what it left out filled in. ``paths`` says where each of its keys was written."""

    index: int
    name: str
    spec: StageSpec
    paths: Mapping[str, Path]
    data: Any
    terms: Mapping[str, TermPlan]
    adapters: tuple[str, ...]
    """The adapters its terms need, those that feed others first."""
    views: Callable[[Batch], Batch] = identity
    """Transform applied to each training batch before the models see it."""
    candidates: tuple[str, ...] = ()
    """The models that may take the student's place."""

    def path(self, key: str) -> Path:
        """Where the value of ``key`` was written."""
        return self.paths.get(key, ("stages", self.name))

    def steps(self, samples: int) -> tuple[int, int]:
        """Steps of an epoch and in all, with so many training samples; KDError where they make none."""
        size = self.spec.batch_size
        assert size is not None
        if samples == 0:
            raise KDError("the training split is empty", path="data")
        per_epoch = samples // size if self.spec.drop_last else math.ceil(samples / size)
        if per_epoch == 0:
            message = f"{samples} training samples do not fill a batch of {size}"
            raise KDError(message, path=f"stages.{self.name}.drop_last")
        return per_epoch, self.spec.steps or per_epoch * (self.spec.epochs or 0)


@dataclass(frozen=True)
class Plan:
    """A checked experiment."""

    document: Document
    name: str
    seed: int
    task: Task
    data: Any
    models: Mapping[str, ModelSpec]
    inputs: Mapping[str, Any]
    """What each model wants its input to be, in the task's own schema."""
    adapters: Mapping[str, AdapterPlan]
    stages: tuple[StagePlan, ...]
    runtime: RuntimeSpec
    fast: bool
    checkpoint: CheckpointSpec
    log_every: int
    trackers: Mapping[str, Mapping[str, Any]]
    """Options by the names of trackers."""
    observers: Mapping[str, Mapping[str, Any]]
    """Hyperparameters by the names of registered observers."""
    imports: tuple[str, ...] = field(default=())

    @property
    def dataset(self) -> str | None:
        """The data set's name, where it has one: published weights are looked up for it."""
        return dataset_of(self.document)

    def taps(self, stage: StagePlan) -> dict[str, list[Tap]]:
        """The places a stage looks at, by model; a model that the stage does not use is not in it.

        One without a place does not see the batch: only adapters run it, or a part of it.
        """
        by_model: dict[str, dict[Tap, None]] = {}
        adapters = [self.adapters[name] for name in stage.adapters]
        plans: list[TermPlan | AdapterPlan] = [*stage.terms.values(), *adapters]
        for plan in plans:
            for wire in plan.all_wires():
                if wire.tap is not None:
                    by_model.setdefault(wire.root, {})[wire.tap] = None
        for adapter in adapters:
            for wire in () if adapter.spec.fresh else adapter.shared:
                by_model.setdefault(wire.root, {})
        return {model: list(taps) for model, taps in by_model.items()}

    def outputs_read(self, stage: StagePlan) -> set[str]:
        """The models whose own output a stage reads, for the batch or for what an adapter runs them on."""
        named = {name for name, taps in self.taps(stage).items() if Tap("") in taps}
        adapters = [self.adapters[name] for name in stage.adapters]
        whole = (tap.tap == Tap("") for adapter in adapters for tap in adapter.taps.values())
        return named | {name for adapter in adapters for name in adapter.runs if not adapter.taps or any(whole)}

    def by_landmark(self, stage: StagePlan) -> list[str]:
        """The models of which a stage names places by their landmarks."""
        adapters = [self.adapters[name] for name in stage.adapters]
        plans: list[TermPlan | AdapterPlan] = [*stage.terms.values(), *adapters]
        wires = [wire for plan in plans for wire in plan.all_wires()]
        wires += [wire for adapter in adapters for wire in (*adapter.shared, *adapter.taps.values())]
        named = {wire.root for wire in wires if wire.tap is not None and wire.tap.is_landmark}
        patterns = [*(stage.spec.train or ()), *stage.spec.freeze]
        named |= {root for root, _, path in (pattern.partition(".") for pattern in patterns) if path.startswith("@")}
        return [name for name in self.models if name in named]


def dataset_of(document: Document) -> str | None:
    """The name of a config's data set, where it has one."""
    data = document.data.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    return name if isinstance(name, str) else None


def flat(wired: Any) -> Iterator[Wire]:
    """The wires in any nesting of lists."""
    for item in wired:
        if isinstance(item, list):
            yield from item
        else:
            yield item
