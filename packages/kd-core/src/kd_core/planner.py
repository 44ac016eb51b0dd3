"""From a document to a plan: shape, plug in, locate every call, bind every wire. Builds nothing."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

from kd_core.binding import Binder
from kd_core.config import Document, Lazy, Policy
from kd_core.errors import ConfigError, KDError, did_you_mean
from kd_core.models import MODELS, builder_of, described, find_card
from kd_core.plan import AdapterPlan, Plan, StagePlan, TermPlan, flat
from kd_core.spec import (
    AdapterSpec,
    Header,
    ModelSpec,
    OptimizerSpec,
    Path,
    RuntimeSpec,
    SchedulerSpec,
    Shaper,
    StageSpec,
    TermSpec,
    inherit,
)
from kd_core.task import TASKS, Task

STUDENT = "student"
RESERVED = ("adapters", "batch", "losses")


def plan(document: Document, policy: Policy) -> Plan:
    """Shape and check a document; ConfigError with all its problems."""
    return Planner(document, policy).plan()


class Planner:
    """Goes through a document once and keeps every problem it meets."""

    def __init__(self, document: Document, policy: Policy) -> None:
        self.document = document
        self.policy = policy
        self.shaper = Shaper(document)
        self.binder = Binder(self.shaper, policy)

    def plan(self) -> Plan:
        """The plan; ConfigError with all problems."""
        header = self.shaper.shape(Header, self.document.data)
        if header is None:
            raise ConfigError(self.shaper.problems)
        self._import(header.imports)
        task = self._task(header.task)
        data = self._data(task, header.data, ("data",))
        models = self._models(header.models)
        inputs = self._inputs(task, models)
        adapters = self._adapters(header.adapters)
        stages = self._stages(header.stages, adapters, task, data)
        runtime = self._runtime(header.runtime)
        if self.shaper.problems:
            raise ConfigError(self.shaper.problems)
        assert task is not None
        assert runtime is not None
        return Plan(
            document=self.document,
            name=header.name or FilePath(self.document.file).stem,
            seed=header.seed,
            task=task,
            data=data,
            models=models,
            inputs=inputs,
            adapters=adapters,
            stages=tuple(stages),
            runtime=runtime,
            fast=header.runtime == "fast",
            checkpoint=header.checkpoint,
            log_every=header.log_every,
        )

    # -- the parts of the top level

    def _import(self, names: Sequence[str]) -> None:
        """Import local packages that register things, from the config's folder too; only with ``--trust``."""
        if names and self.policy.trust:
            folders = (str(FilePath(self.document.file).parent.resolve()), str(FilePath.cwd()))
            sys.path += [folder for folder in folders if folder not in sys.path]
        for position, name in enumerate(names):
            path: Path = ("imports", position)
            try:
                self.policy.import_module(name)
            except KDError as error:
                self.binder.report(path, error)
            except Exception as error:  # a user's module may raise anything
                self.shaper.report(path, f"importing {name} failed: {type(error).__name__}: {error}")

    def _task(self, name: str) -> Task | None:
        try:
            return TASKS.get(name)()
        except KDError as error:
            self.binder.report(("task",), error)
            return None

    def _data(self, task: Task | None, value: Any, path: Path) -> Any:
        if task is None:
            return None
        self.binder.calls(value, path)
        return self.shaper.shape(task.Data, value, path)

    def _runtime(self, value: Any) -> RuntimeSpec | None:
        if isinstance(value, str):
            return RuntimeSpec()
        spec = self.shaper.shape(RuntimeSpec, value, ("runtime",))
        for position, name in enumerate(spec.compile if spec else ()):
            if name not in self.binder.models:
                self.shaper.report(
                    ("runtime", "compile", position),
                    f"there is no model {name!r}",
                    did_you_mean(name, self.binder.models),
                )
        return spec

    # -- models

    def _models(self, given: Mapping[str, Any]) -> dict[str, ModelSpec]:
        if STUDENT not in given:
            self.shaper.report(
                ("models",), f"needs a model named {STUDENT!r}", did_you_mean(STUDENT, list(given)) if given else None
            )
        models = {}
        for name, value in given.items():
            path: Path = ("models", name)
            if not self.binder.name(name, path, "a model", RESERVED):
                continue
            spec = self.shaper.shape(ModelSpec, {"call": value} if isinstance(value, Lazy) else value, path)
            if spec is not None:
                self._model(name, spec, path, bare=isinstance(value, Lazy))
                models[name] = spec
        return models

    def _model(self, name: str, spec: ModelSpec, path: Path, *, bare: bool) -> None:
        self.binder.calls(spec.edit, (*path, "edit"))
        if spec.call is not None:
            self.binder.calls(spec.call, path if bare else (*path, "call"))
        try:
            if spec.arch is not None:
                self.binder.parameters(MODELS.get(spec.arch), spec.arch, spec.rest, path, list(ModelSpec.model_fields))
            elif spec.zoo is not None:
                card = find_card(spec.zoo, self._dataset())[1]
                self.binder.parameters(builder_of(card), card.arch, spec.rest, path, list(ModelSpec.model_fields))
        except KDError as error:
            self.binder.report((*path, spec.source), error)
        if spec.source in ("call", "run"):
            for key in spec.rest:
                self.shaper.report(
                    (*path, key), f"unknown key {key!r}", did_you_mean(key, list(ModelSpec.model_fields)), key=True
                )
        if spec.arch is not None and "weights" not in spec.model_fields_set and name != STUDENT and not spec.trainable:
            hint = "give `weights: PATH`, or `weights: null` for random ones on purpose"
            self.shaper.report(path, f"{name} is a frozen model without weights", hint)

    def _dataset(self) -> str | None:
        name = self.document.data["data"].get("name")
        return name if isinstance(name, str) else None

    def _inputs(self, task: Task | None, models: Mapping[str, ModelSpec]) -> dict[str, Any]:
        """What each model wants its input to be: as written, else as published or as it was trained with."""
        if task is None:
            return {}
        return {
            name: self.shaper.shape(task.Input, self._input(task, spec), ("models", name, "input"))
            for name, spec in models.items()
        }

    def _input(self, task: Task, spec: ModelSpec) -> dict[str, Any]:
        known: dict[str, Any] = {}
        with suppress(KDError):  # reported with the model, or when it is built
            if spec.zoo is not None:
                card = find_card(spec.zoo, self._dataset())[1]
                known = {"mean": list(card.mean), "std": list(card.std)}
            elif spec.run is not None:
                known = described(FilePath(spec.run)).input
        return {**{key: value for key, value in known.items() if key in task.Input.model_fields}, **spec.input}

    # -- adapters

    def _adapters(self, given: Mapping[str, Any]) -> dict[str, AdapterPlan]:
        plans = {}
        for name, value in given.items():
            path: Path = ("adapters", name)
            if not self.binder.name(name, path, "an adapter"):
                continue
            spec = self.shaper.shape(AdapterSpec, value, path)
            if spec is not None and (made := self.binder.adapter(name, spec, path)) is not None:
                plans[name] = made
        for name, adapter in plans.items():
            if name in reach(name, plans):
                self.shaper.report(adapter.path, f"adapters.{name} feeds itself")
        return plans

    # -- stages

    def _stages(
        self, given: Sequence[Any], adapters: Mapping[str, AdapterPlan], task: Task | None, data: Any
    ) -> list[StagePlan]:
        plans: list[StagePlan] = []
        before: StageSpec | None = None
        paths: dict[str, Path] = {}
        for index, value in enumerate(given):
            path: Path = ("stages", index)
            own = self.shaper.shape(StageSpec, value, path)
            if own is None:
                self._terms(value.get("losses"), (*path, "losses"))  # for what else is wrong
                continue
            given_keys = own.model_fields_set
            paths = {**paths, **{key: (*path, key) for key in given_keys}}
            whole = inherit(before, own)
            swapped = (
                self._data(task, whole.data, paths["data"])
                if "data" in given_keys
                else (plans[-1].data if plans else data)
            )
            fresh = "losses" in given_keys or not plans
            terms = self._terms(whole.losses, paths.get("losses", path)) if fresh else plans[-1].terms
            self._stage(whole, own, path)
            plans.append(
                StagePlan(index, whole.name or f"stage{index}", whole, paths, swapped, terms, needed(terms, adapters))
            )
            before = whole
        return plans

    def _stage(self, stage: StageSpec, own: StageSpec, path: Path) -> None:
        if stage.epochs is None and stage.steps is None:
            self.shaper.report(path, "needs 'epochs' or 'steps'")
        if {"epochs", "steps"} <= own.model_fields_set:
            self.shaper.report((*path, "steps"), "give 'epochs' or 'steps', not both", key=True)
        for key in ("batch_size", "optimizer"):
            if getattr(stage, key) is None:
                self.shaper.report(path, f"needs a key {key!r}")
        if not stage.losses:
            self.shaper.report(path, "needs 'losses' with at least one term")
        if stage.batch_size and stage.accumulate > stage.batch_size:
            self.shaper.report(
                (*path, "accumulate"), f"cannot cut a batch of {stage.batch_size} into {stage.accumulate} parts"
            )
        for key, supplied in (("optimizer", "params"), ("scheduler", "optimizer")):
            value = getattr(own, key)
            if isinstance(value, (OptimizerSpec, SchedulerSpec)):
                self.binder.calls(value.call, (*path, key, "call"), (supplied,))
            elif value is not None:
                self.binder.calls(value, (*path, key), (supplied,))

    def _terms(self, given: Any, path: Path) -> dict[str, TermPlan]:
        plans = {}
        for name, value in given.items() if isinstance(given, Mapping) else ():
            where = (*path, name)
            if not self.binder.name(name, where, "a term"):
                continue
            spec = self.shaper.shape(TermSpec, value, where)
            if spec is not None and (made := self.binder.term(name, spec, where)) is not None:
                plans[name] = made
        return plans


def fed_by(adapter: AdapterPlan) -> list[str]:
    """The adapters whose outputs an adapter reads."""
    return [wire.path for wire in adapter.all_wires() if wire.root == "adapters"]


def reach(name: str, plans: Mapping[str, AdapterPlan]) -> set[str]:
    """All adapters that an adapter reads, directly or through others."""
    seen: set[str] = set()
    queue = fed_by(plans[name])
    while queue:
        each = queue.pop()
        if each in plans and each not in seen:
            seen.add(each)
            queue += fed_by(plans[each])
    return seen


def needed(terms: Mapping[str, TermPlan], adapters: Mapping[str, AdapterPlan]) -> tuple[str, ...]:
    """The adapters that terms read, directly or through others, those that feed others first."""
    ordered: dict[str, None] = {}
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in adapters and name not in visiting:
            visiting.add(name)
            for each in fed_by(adapters[name]):
                visit(each)
            ordered[name] = None

    for wire in flat(each for term in terms.values() for each in term.wires.values()):
        if wire.root == "adapters":
            visit(wire.path)
    return tuple(ordered)
