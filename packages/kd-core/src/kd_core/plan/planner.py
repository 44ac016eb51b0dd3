"""From a document to a plan: shape, plug in, locate every call, bind every wire. Builds nothing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from functools import partial
from pathlib import Path as FilePath
from typing import Any, cast

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_core.config import RUN_NAMES, Document, Lazy, Policy
from kd_core.config.schema import (
    AdapterSpec,
    ExperimentSpec,
    ModelSpec,
    OptimizerSpec,
    Path,
    RuntimeSpec,
    SchedulerSpec,
    StageSpec,
    TermSpec,
    ViewSpec,
    inherit,
)
from kd_core.config.validation import Validator, describe
from kd_core.data.batch import STUDENT, Batch
from kd_core.data.views import VIEWS, identity
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean, nearest
from kd_core.models.factory import described, from_hub
from kd_core.models.hub import Hub
from kd_core.models.registry import MODELS, builder_of, find_card
from kd_core.observers import OBSERVERS
from kd_core.plan.binder import WireBinder
from kd_core.plan.plan import RESERVED, AdapterPlan, Plan, StagePlan, TermPlan, dataset_of, flat
from kd_core.runs.run_folder import local_folders
from kd_core.task import TASKS, Task


def plan(document: Document, policy: Policy) -> Plan:
    """Shape and check a document; ConfigError with all its problems."""
    planner = Planner(document, policy)
    made = planner.plan()
    if planner.problems or made is None:
        raise ConfigError(planner.problems)
    return made


class Planner:
    """Goes through a document once and keeps every problem it meets."""

    def __init__(self, document: Document, policy: Policy) -> None:
        self.document = document
        self.policy = policy
        self.validator = Validator(document)
        self.binder = WireBinder(self.validator, policy)
        self.hub: Hub | None = None

    @property
    def problems(self) -> list[ConfigProblem]:
        """What is wrong, as far as :meth:`plan` has come."""
        return self.validator.problems

    def plan(self) -> Plan | None:
        """The plan of what is sound; None where too little is."""
        header, lost = self.validator.validate_partial(ExperimentSpec, self.document.data, task="", data={}, models={})
        if header is None:
            return None
        self._import(header.imports)
        task = None if "task" in lost else self._task(header.task)
        self.hub, self.binder.output = (task.hub, task.output) if task is not None else (None, "")
        if task is not None:
            self.binder.builder.run_names = [*RUN_NAMES, *task.run_values]
        data = None if "data" in lost else self._data(task, header.data, ("data",))
        if "models" in lost:
            return None
        models = self._resolved(self._models(header.models))
        inputs = self._inputs(task, models)
        adapters = self._adapters(header.adapters)
        stages = self._stages(header.stages, adapters, task, data)
        runtime = self._runtime(header.runtime)
        return Plan(
            document=self.document,
            name=header.name or FilePath(self.document.file).stem,
            seed=header.seed,
            task=cast(Task, task),  # None only beside problems, as the data
            data=data,
            models=models,
            inputs=inputs,
            adapters=adapters,
            stages=tuple(stages),
            runtime=runtime or RuntimeSpec(),
            fast=header.runtime == "fast",
            checkpoint=header.checkpoint,
            log_every=header.log_every,
            observers=self._observers(header.observers),
        )

    # -- the parts of the top level

    def _import(self, names: Sequence[str]) -> None:
        """Import local packages that register things. With ``--trust`` only are local ones looked for, by calls too."""
        if self.policy.trust:
            sys.path += [each for each in local_folders(FilePath(self.document.file)) if each not in sys.path]
        for position, name in enumerate(names):
            path: Path = ("imports", position)
            try:
                self.policy.import_module(name)
            except KDError as error:
                self.validator.add_error(path, error)
            except Exception as error:  # a user's module may raise anything
                self.validator.report(path, f"importing {name} failed: {type(error).__name__}: {error}")

    def _task(self, name: str) -> Task | None:
        try:
            return TASKS.get(name)()
        except KDError as error:
            self.validator.add_error(("task",), error)
            return None

    def _data(self, task: Task | None, value: Any, path: Path) -> Any:
        if task is None:
            return None
        self.binder.calls(value, path)
        try:
            schema = task.data_schema(value) if isinstance(value, Mapping) else task.Data
        except KDError as error:
            self.validator.add_error(path, error)
            return None
        return self.validator.validate(schema, value, path)

    def _runtime(self, value: Any) -> RuntimeSpec | None:
        if isinstance(value, str):
            return RuntimeSpec()
        spec = self.validator.validate(RuntimeSpec, value, ("runtime",))
        for position, name in enumerate(spec.compile if spec else ()):
            if name not in self.binder.models:
                self.validator.report(
                    ("runtime", "compile", position),
                    f"there is no model {name!r}",
                    did_you_mean(name, self.binder.models),
                )
        return spec

    def _observers(self, given: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The hyperparameters of each observer that is named."""
        plans: dict[str, Mapping[str, Any]] = {}
        for name, values in given.items():
            path: Path = ("observers", name)
            try:
                observer = OBSERVERS.get(name)
            except KDError as error:
                self.validator.add_error(path, error)
                continue
            if values is not None and not isinstance(values, Mapping):
                self.validator.report(path, f"must be a mapping of its hyperparameters, not {describe(values)}")
                continue
            self.binder.parameters(observer, name, values or {}, path, [])
            plans[name] = values or {}
        return plans

    # -- models

    def _models(self, given: Mapping[str, Any]) -> dict[str, ModelSpec]:
        meant = None if STUDENT in given else nearest(STUDENT, given)
        if STUDENT not in given:
            hint = f"is {meant!r} meant to be {STUDENT!r}?" if meant else "write {student: {arch: NAME}}"
            self.validator.report(("models",), f"needs a model named {STUDENT!r}", hint, key=True)
        models = {}
        for name, value in given.items():
            path: Path = ("models", name)
            if not self.binder.name(name, path, "a model", RESERVED):
                continue
            bare = isinstance(value, Lazy)
            spec, lost = self.validator.validate_partial(ModelSpec, {"call": value} if bare else value, path)
            if spec is None:
                continue
            before = len(self.problems)
            self._model(spec, path, bare=bare)
            if spec.cache and (name == STUDENT or spec.trainable or spec.mode == "train"):
                self.validator.report(
                    (*path, "cache"), "caches the outputs of a frozen model, and this model changes in training"
                )
            if name not in (STUDENT, meant) and "weights" not in lost:
                self._frozen(name, spec, path)
            if not lost and len(self.problems) == before:
                models[name] = spec
        return models

    def _model(self, spec: ModelSpec, path: Path, *, bare: bool) -> None:
        self.binder.calls(spec.edit, (*path, "edit"))
        if spec.call is not None:
            self.binder.calls(spec.call, path if bare else (*path, "call"), kind=nn.Module)
        known = list(ModelSpec.model_fields)
        try:
            if spec.arch is not None:
                self.binder.parameters(MODELS.get(spec.arch), spec.arch, spec.extra, path, known)
            elif spec.zoo is not None:
                card = find_card(spec.zoo, dataset_of(self.document))[1]
                self.binder.parameters(builder_of(card), card.arch, spec.extra, path, known)
            elif spec.hub is not None and self.hub is None:
                raise KDError("this task has no hub of models", hint="write `arch: NAME`, `zoo: NAME` or a !call")
            elif self._hub_made(spec) and self.hub is not None:
                self.binder.parameters(self.hub.build, "a model of the hub", spec.extra, path, known)
        except KDError as error:
            self.validator.add_error((*path, spec.source), error)
        if spec.source in ("call", "run", "init_from") and not self._hub_made(spec):
            for key in spec.extra:
                self.validator.unknown_key((*path, key), f"unknown key {key!r}", known)
        if spec.weights == "auto" and spec.source in ("arch", "call"):
            message = (
                f"there are no published weights for {'this ' if spec.call else ''}{spec.source} {spec.arch or ''}"
            )
            self.validator.report((*path, "weights"), message.rstrip(), "write `zoo: NAME`, a path or a URL")

    def _hub_made(self, spec: ModelSpec) -> bool:
        """Whether the hub makes the model: what it takes is then what a config may say."""
        if spec.run is not None:
            with suppress(KDError):  # told when its files are looked for
                return from_hub(spec).hub is not None
        return spec.hub is not None or (spec.init_from is not None and self.hub is not None)

    def _resolved(self, models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
        """Models that begin as another one does (``init_from``), as what that one is."""
        found = dict(models)
        for name, spec in models.items():
            if spec.init_from is None:
                continue
            other, path = models.get(spec.init_from), ("models", name, "init_from")
            if other is None or other.init_from is not None or spec.init_from == name:
                choices = [each for each in models if each != name and models[each].init_from is None]
                hint = did_you_mean(spec.init_from, choices)
                self.validator.report(path, f"there is no model {spec.init_from!r}", hint)
                del found[name]
                continue
            theirs = {
                key: getattr(other, key) for key in other.model_fields_set - {"trainable", "mode", "new_head", "cache"}
            }
            own = {key: getattr(spec, key) for key in spec.model_fields_set - {"init_from"}}
            found[name] = ModelSpec(**{**theirs, **own})
        return found

    def _frozen(self, name: str, spec: ModelSpec, path: Path) -> None:
        """A teacher learned somewhere: to have it random must be said."""
        given = "weights" in spec.model_fields_set or any(nearest(key, ["weights"]) for key in spec.extra)
        if spec.arch is not None and not given and not spec.trainable:
            hint = "give `weights: PATH`, or `weights: null` for random ones on purpose"
            self.validator.report(path, f"{name} is a frozen model without weights", hint)

    def _inputs(self, task: Task | None, models: Mapping[str, ModelSpec]) -> dict[str, Any]:
        """What each model wants its input to be: as written, else as published or as it was trained with."""
        if task is None:
            return {}
        shaped = {
            name: self.validator.validate(task.Input, self._input(task, spec), ("models", name, "input"))
            for name, spec in models.items()
        }
        return {name: value for name, value in shaped.items() if value is not None}

    def _input(self, task: Task, spec: ModelSpec) -> dict[str, Any]:
        known: dict[str, Any] = {}
        with suppress(KDError):  # reported with the model, or when it is built
            if spec.zoo is not None:
                card = find_card(spec.zoo, dataset_of(self.document))[1]
                known = {"mean": list(card.mean), "std": list(card.std)}
            elif spec.run is not None:
                known = described(FilePath(spec.run)).input
                if self.hub is not None and (found := from_hub(spec)).hub is not None:
                    known = {**known, **self.hub.input(found)}
            elif spec.hub is not None and self.hub is not None:
                known = self.hub.input(spec)
        return {**{key: value for key, value in known.items() if key in task.Input.model_fields}, **spec.input}

    # -- adapters

    def _adapters(self, given: Mapping[str, Any]) -> dict[str, AdapterPlan]:
        plans = {}
        for name, value in given.items():
            path: Path = ("adapters", name)
            if not self.binder.name(name, path, "an adapter"):
                continue
            spec, _ = self.validator.validate_partial(AdapterSpec, value, path)
            if spec is not None and (made := self.binder.adapter(name, spec, path)) is not None:
                plans[name] = made
        for name, adapter in plans.items():
            if name in reach(name, plans):
                self.validator.report((*adapter.path, "inputs"), f"adapters.{name} depends on itself (cycle)")
        return plans

    # -- stages

    def _stages(
        self, given: Mapping[str, Any], adapters: Mapping[str, AdapterPlan], task: Task | None, data: Any
    ) -> list[StagePlan]:
        plans: list[StagePlan] = []
        before: StageSpec | None = None
        paths: dict[str, Path] = {}
        wrong: frozenset[str] = frozenset()
        terms: dict[str, TermPlan] = {}
        for name, value in given.items():
            path: Path = ("stages", name)
            if value is None:
                continue  # what a base has, taken away
            if not re.fullmatch(r"\w[\w+-]*", name):
                self.validator.report(
                    path, f"{name!r} cannot name a stage: a name is letters, digits, _, + and -", key=True
                )
                continue
            own, lost = self.validator.validate_partial(StageSpec, value, path)
            if own is None:
                continue
            keys = own.model_fields_set
            wrong = (wrong - keys) | lost
            paths = {**paths, **{key: (*path, key) for key in keys}}
            whole = inherit(before, own)
            if "data" in keys:
                data = self._data(task, whole.data, paths["data"])
            if "losses" in keys:
                terms = self._terms(whole.losses, paths["losses"])
            wrong |= self._stage(whole, own, path, wrong)
            views = self._views(whole.views, paths.get("views", path))
            plans.append(StagePlan(len(plans), name, whole, paths, data, terms, needed(terms, adapters), views))
            before = whole
        return plans

    def _stage(self, stage: StageSpec, own: StageSpec, path: Path, wrong: Set[str]) -> set[str]:
        """The keys a stage lacks. Those that are ``wrong`` have been reported, and are not missed."""
        lacks = {key for key in ("batch_size", "optimizer") if not getattr(stage, key)}
        if all(value is None for value in stage.losses.values()):
            lacks.add("losses")
        if stage.epochs is None and stage.steps is None and not {"epochs", "steps"} & wrong:
            self.validator.report(path, "missing required key 'epochs' or 'steps'")
            lacks |= {"epochs", "steps"}
        if own.epochs is not None and own.steps is not None:
            hint = "`epochs: null`, or --set with epochs=null, takes the other away"
            self.validator.report((*path, "steps"), "give 'epochs' or 'steps', not both", hint, key=True)
        for key in sorted(lacks & {"batch_size", "optimizer", "losses"} - wrong):
            if key in own.model_fields_set:
                self.validator.report(
                    (*path, key), "needs at least one term" if key == "losses" else "must not be null"
                )
            else:
                self.validator.report(path, f"missing required key {key!r}")
        cut = stage.batch_size and stage.accumulation_steps > stage.batch_size
        if cut and {"accumulation_steps", "batch_size"} & own.model_fields_set:
            key = "accumulation_steps" if "accumulation_steps" in own.model_fields_set else "batch_size"
            self.validator.report(
                (*path, key), f"cannot cut a batch of {stage.batch_size} into {stage.accumulation_steps} micro-batches"
            )
        for key, supplied, kind in (("optimizer", "params", Optimizer), ("scheduler", "optimizer", LRScheduler)):
            value = getattr(own, key)
            if isinstance(value, (OptimizerSpec, SchedulerSpec)):
                self.binder.calls(value.call, (*path, key, "call"), (supplied,), kind=kind)
            elif value is not None:
                self.binder.calls(value, (*path, key), (supplied,), kind=kind)
        return lacks

    def _views(self, given: str | ViewSpec | None, path: Path) -> Callable[[Batch], Batch]:
        if given is None:
            return identity
        name, values = (given, {}) if isinstance(given, str) else (given.view, given.extra)
        try:
            view = VIEWS.get(name)
        except KDError as error:
            self.validator.add_error(path if isinstance(given, str) else (*path, "view"), error)
            return identity
        self.binder.parameters(view, name, values, path, ["view"])
        return partial(view, **values)

    def _terms(self, given: Any, path: Path) -> dict[str, TermPlan]:
        plans = {}
        for name, value in given.items() if isinstance(given, Mapping) else ():
            where = (*path, name)
            if value is None:
                continue  # a term of a base, taken away
            if not self.binder.name(name, where, "a term"):
                continue
            spec, _ = self.validator.validate_partial(TermSpec, value, where)
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
