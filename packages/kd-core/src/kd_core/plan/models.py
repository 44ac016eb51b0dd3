"""From a config's ``models:`` to their specs: each source located, each parameter bound. Builds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

from torch import nn

from kd_core.config import Lazy
from kd_core.config.schema import AdapterSpec, ModelSpec, Path
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError, did_you_mean, nearest
from kd_core.models.factory import HUB_SOURCES, from_hub, no_hub, recorded, student_spec
from kd_core.models.hub import hub_of
from kd_core.models.registry import MODELS, builder_of, find_card
from kd_core.plan.binder import WireBinder
from kd_core.plan.groups import ModelEntry, anew, entries, group_of
from kd_core.plan.plan import RESERVED, dataset_of
from kd_core.taps.edits import MODULE_KEYS
from kd_core.task import Task


class ModelPlanner:
    """Plans the models of a config; every problem goes to the binder's validator."""

    def __init__(self, binder: WireBinder, task: Task | None) -> None:
        self.binder, self.validator, self.task = binder, binder.validator, task
        self.hubs = {} if task is None else task.hubs
        self.specs: Mapping[str, Any] = {}
        self.paths: dict[str, Path] = {}
        """Where each model is written."""

    def models(self, specs: Mapping[str, Any]) -> dict[str, ModelSpec]:
        """The models that are right, those that begin as another one (``init_from``) as what that one is."""
        meant = None if STUDENT in specs else nearest(STUDENT, specs)
        if STUDENT not in specs:
            hint = f"is {meant!r} meant to be {STUDENT!r}?" if meant else "write {student: {arch: NAME}}"
            self.validator.report(("models",), f"needs a model named {STUDENT!r}", hint, key=True)
        models: dict[str, ModelSpec] = {}
        self.specs = specs
        for name, value in specs.items():
            path: Path = ("models", name)
            if not self.binder.name(name, path, "a model", RESERVED):
                continue
            group = group_of(name, value)
            taken = [member for member in group if member in specs]
            if value == [] and name != STUDENT:
                self.validator.report(path, "needs at least one model")
            elif taken:
                self.validator.report(path, f"has a model {taken[0]!r}, and there is another of that name", key=True)
            else:
                for entry in entries(name, value):
                    spec = self._entry(entry, named=name in (STUDENT, meant))
                    models |= {} if spec is None else dict.fromkeys(entry.names, spec)
        resolved = self._resolved(models)
        return {name: anew(spec, models.values()) if spec.copies else spec for name, spec in resolved.items()}

    def _entry(self, entry: ModelEntry, *, named: bool) -> ModelSpec | None:
        """The model that is written at one place, None where it is wrong; ``named``: it is, or is meant to be, the
        student."""
        bare, path = isinstance(entry.value, Lazy), entry.path
        self.paths |= dict.fromkeys(entry.names, path)
        spec, lost = self.validator.validate_partial(ModelSpec, {"call": entry.value} if bare else entry.value, path)
        if spec is None:
            return None
        problem_count = len(self.validator.problems)
        self._model(spec, path, bare=bare)
        if spec.cache and (entry.names == (STUDENT,) or spec.trainable or spec.mode == "train"):
            self.validator.report(
                (*path, "cache"), "caches the outputs of a frozen model, and this model changes in training"
            )
        if spec.copies is not None:
            self._copies(spec, path)
        if not named and "weights" not in lost:
            self._frozen(entry.names[0], spec, path)
        return spec if not lost and len(self.validator.problems) == problem_count else None

    def _copies(self, spec: ModelSpec, path: Path) -> None:
        """Copies differ in their random weights, or in what they learn."""
        if path == ("models", STUDENT):
            hint = "`models.peers: {init_from: student, copies: 2, trainable: true}`"
            self.validator.report((*path, "copies"), "the student is one model, not a group", hint, key=True)
        elif len(path) > 2:
            hint = "write the models of a list one by one"
            self.validator.report((*path, "copies"), "makes a group, and this is a model of one", hint, key=True)
        elif not spec.trainable and (spec.weights is not None or spec.source in ("zoo", "run", *HUB_SOURCES)):
            hint = "`trainable: true`, or a list of models with different weights"
            self.validator.report((*path, "copies"), "copies of a frozen model with weights are all the same", hint)

    def _model(self, spec: ModelSpec, path: Path, *, bare: bool) -> None:
        self._edits(spec.edit, (*path, "edit"))
        if spec.call is not None:
            self.binder.calls(spec.call, path if bare else (*path, "call"), kind=nn.Module)
        keys = list(ModelSpec.model_fields)
        try:
            if spec.arch is not None:
                self.binder.parameters(MODELS.get(spec.arch), spec.arch, spec.extra, path, keys)
            elif spec.zoo is not None:
                card = find_card(spec.zoo, dataset_of(self.validator.document))[1]
                self.binder.parameters(builder_of(card), card.arch, spec.extra, path, keys)
            elif spec.source in HUB_SOURCES and spec.source not in self.hubs:
                raise KDError(no_hub(spec.source), hint="write `arch: NAME`, `zoo: NAME` or a !call")
            elif (source := self._hub_source(spec)) is not None:
                title = "a model of the hub" if source == "hub" else f"a model of {source}"
                self.binder.parameters(self.hubs[source].build, title, spec.extra, path, keys)
        except KDError as error:
            self.validator.add_error((*path, spec.source), error)
        if spec.source in ("call", "run", "init_from") and self._hub_source(spec) is None:
            for key in spec.extra:
                self.validator.unknown_key((*path, key), f"unknown key {key!r}", keys)
        if spec.weights == "auto" and spec.source in ("arch", "call"):
            message = (
                f"there are no published weights for {'this ' if spec.call else ''}{spec.source} {spec.arch or ''}"
            )
            self.validator.report((*path, "weights"), message.rstrip(), "write `zoo: NAME`, a path or a URL")

    def _hub_source(self, spec: ModelSpec) -> str | None:
        """The source whose hub makes the model: what that takes is then what a config may say. None for no hub."""
        source = spec.source
        if spec.run is not None:
            with suppress(KDError):  # told when its files are looked for
                source = from_hub(spec).source
        if spec.init_from is not None:
            other = self.specs.get(spec.init_from)
            keys = [key for key in (*HUB_SOURCES, "run") if isinstance(other, Mapping) and other.get(key) is not None]
            source = "hub" if keys == ["run"] else keys[0] if keys else source
        return source if source in self.hubs else None

    def _resolved(self, models: Mapping[str, ModelSpec]) -> dict[str, ModelSpec]:
        """Models that begin as another one does (``init_from``), as what that one is."""
        resolved, own = dict(models), {"trainable", "mode", "new_head", "cache", "copies"}
        previous: Path = ()
        for name, spec in models.items():
            if spec.init_from is None:
                continue
            other, path = models.get(spec.init_from), (*self.paths[name], "init_from")
            if other is None or other.init_from is not None or spec.init_from == name:
                choices = [
                    candidate for candidate in models if candidate != name and models[candidate].init_from is None
                ]
                hint = did_you_mean(spec.init_from, choices)
                if self.paths[name] != previous:  # of copies once
                    self.validator.report(path, f"there is no model {spec.init_from!r}", hint)
                previous = self.paths[name]
                del resolved[name]
                continue
            inherited = {key: getattr(other, key) for key in other.model_fields_set - own}
            overrides = {key: getattr(spec, key) for key in spec.model_fields_set - {"init_from"}}
            resolved[name] = anew(ModelSpec(**{**inherited, **overrides}), models.values())
        return resolved

    def _edits(self, edits: Sequence[Mapping[str, Any]], path: Path) -> None:
        self.binder.calls(edits, path)
        for number, edit in enumerate(edits):
            for key in MODULE_KEYS:
                if isinstance(value := edit.get(key), (str, Mapping)):
                    self._edit_module(value, (*path, number, key))

    def _edit_module(self, value: str | Mapping[str, Any], path: Path) -> None:
        """A module that an edit names: one of another model, or an adapter with its parameters."""
        written = {"module": value} if isinstance(value, str) else dict(value)
        own = ("module", "match", "out_features")
        for key in ("inputs", "each", "fresh"):
            if key in written:
                self.validator.report((*path, key), f"unknown key {key!r}", f"an edit has {', '.join(own)}", key=True)
                return
        spec = self.validator.validate(AdapterSpec, {"inputs": f"{STUDENT}.output", **written}, path)
        if spec is not None:
            self.binder.adapter("edit", spec, path)

    def _frozen(self, name: str, spec: ModelSpec, path: Path) -> None:
        """A teacher learned somewhere: to have it random must be said."""
        explicit = "weights" in spec.model_fields_set or any(nearest(key, ["weights"]) for key in spec.extra)
        if spec.arch is not None and not explicit and not spec.trainable:
            hint = "give `weights: PATH`, or `weights: null` for random ones on purpose"
            self.validator.report(path, f"{name} is a frozen model without weights", hint)

    def inputs(self, models: Mapping[str, ModelSpec]) -> dict[str, Any]:
        """What each model wants its input to be: as written, else as published or as it was trained with."""
        if self.task is None:
            return {}
        written: dict[Path, Any] = {}  # those of copies stand at one place
        for name, spec in models.items():
            path = (*self.paths[name], "input")
            if path not in written:
                written[path] = self.validator.validate(self.task.Input, self._input(self.task, spec), path)
        shaped = {name: written[path] for name in models if (path := (*self.paths[name], "input"))}
        return {name: value for name, value in shaped.items() if value is not None}

    def _input(self, task: Task, spec: ModelSpec) -> dict[str, Any]:
        defaults: dict[str, Any] = {}
        with suppress(KDError):  # reported with the model, or when it is built
            if spec.zoo is not None:
                card = find_card(spec.zoo, dataset_of(self.validator.document))[1]
                defaults = {"mean": list(card.mean), "std": list(card.std)}
            elif spec.run is not None:
                defaults = student_spec(FilePath(spec.run)).input
                if (hub := hub_of(hub_spec := from_hub(spec), self.hubs)) is not None:
                    defaults = {**defaults, **hub.input(hub_spec)}
            elif (hub := hub_of(spec, self.hubs)) is not None:
                saved = recorded(spec)
                defaults = {**({} if saved is None else saved.input), **hub.input(spec)}
            elif (saved := recorded(spec)) is not None:
                defaults = saved.input
        return {**{key: value for key, value in defaults.items() if key in task.Input.model_fields}, **spec.input}

    def evaluation(self, models: Mapping[str, ModelSpec]) -> dict[str, Any]:
        """How the student's hub says that its samples are evaluated; nothing for a student of no hub."""
        spec = models.get(STUDENT)
        hub = None if spec is None else hub_of(spec, self.hubs)
        if spec is not None and hub is not None:
            with suppress(KDError):  # reported when it is built
                return hub.evaluation(spec)
        return {}
