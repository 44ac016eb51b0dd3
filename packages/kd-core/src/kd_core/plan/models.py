"""From a config's ``models:`` to their specs: each source located, each parameter bound. Builds nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any

from torch import nn

from kd_core.config import Lazy
from kd_core.config.schema import ModelSpec, Path
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError, did_you_mean, nearest
from kd_core.models.factory import from_hub, recorded, student_spec
from kd_core.models.registry import MODELS, builder_of, find_card
from kd_core.plan.binder import WireBinder
from kd_core.plan.plan import RESERVED, dataset_of
from kd_core.task import Task


class ModelPlanner:
    """Plans the models of a config; every problem goes to the binder's validator."""

    def __init__(self, binder: WireBinder, task: Task | None) -> None:
        self.binder, self.validator, self.task = binder, binder.validator, task
        self.hub = None if task is None else task.hub

    def models(self, specs: Mapping[str, Any]) -> dict[str, ModelSpec]:
        """The models that are right, those that begin as another one (``init_from``) as what that one is."""
        meant = None if STUDENT in specs else nearest(STUDENT, specs)
        if STUDENT not in specs:
            hint = f"is {meant!r} meant to be {STUDENT!r}?" if meant else "write {student: {arch: NAME}}"
            self.validator.report(("models",), f"needs a model named {STUDENT!r}", hint, key=True)
        models = {}
        for name, value in specs.items():
            path: Path = ("models", name)
            if not self.binder.name(name, path, "a model", RESERVED):
                continue
            bare = isinstance(value, Lazy)
            spec, lost = self.validator.validate_partial(ModelSpec, {"call": value} if bare else value, path)
            if spec is None:
                continue
            problem_count = len(self.validator.problems)
            self._model(spec, path, bare=bare)
            if spec.cache and (name == STUDENT or spec.trainable or spec.mode == "train"):
                self.validator.report(
                    (*path, "cache"), "caches the outputs of a frozen model, and this model changes in training"
                )
            if name not in (STUDENT, meant) and "weights" not in lost:
                self._frozen(name, spec, path)
            if not lost and len(self.validator.problems) == problem_count:
                models[name] = spec
        return self._resolved(models)

    def _model(self, spec: ModelSpec, path: Path, *, bare: bool) -> None:
        self.binder.calls(spec.edit, (*path, "edit"))
        if spec.call is not None:
            self.binder.calls(spec.call, path if bare else (*path, "call"), kind=nn.Module)
        keys = list(ModelSpec.model_fields)
        try:
            if spec.arch is not None:
                self.binder.parameters(MODELS.get(spec.arch), spec.arch, spec.extra, path, keys)
            elif spec.zoo is not None:
                card = find_card(spec.zoo, dataset_of(self.validator.document))[1]
                self.binder.parameters(builder_of(card), card.arch, spec.extra, path, keys)
            elif spec.hub is not None and self.hub is None:
                raise KDError("this task has no hub of models", hint="write `arch: NAME`, `zoo: NAME` or a !call")
            elif self._hub_made(spec) and self.hub is not None:
                self.binder.parameters(self.hub.build, "a model of the hub", spec.extra, path, keys)
        except KDError as error:
            self.validator.add_error((*path, spec.source), error)
        if spec.source in ("call", "run", "init_from") and not self._hub_made(spec):
            for key in spec.extra:
                self.validator.unknown_key((*path, key), f"unknown key {key!r}", keys)
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
        resolved = dict(models)
        for name, spec in models.items():
            if spec.init_from is None:
                continue
            other, path = models.get(spec.init_from), ("models", name, "init_from")
            if other is None or other.init_from is not None or spec.init_from == name:
                choices = [
                    candidate for candidate in models if candidate != name and models[candidate].init_from is None
                ]
                hint = did_you_mean(spec.init_from, choices)
                self.validator.report(path, f"there is no model {spec.init_from!r}", hint)
                del resolved[name]
                continue
            inherited = {
                key: getattr(other, key) for key in other.model_fields_set - {"trainable", "mode", "new_head", "cache"}
            }
            overrides = {key: getattr(spec, key) for key in spec.model_fields_set - {"init_from"}}
            resolved[name] = ModelSpec(**{**inherited, **overrides})
        return resolved

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
        shaped = {
            name: self.validator.validate(self.task.Input, self._input(self.task, spec), ("models", name, "input"))
            for name, spec in models.items()
        }
        return {name: value for name, value in shaped.items() if value is not None}

    def _input(self, task: Task, spec: ModelSpec) -> dict[str, Any]:
        defaults: dict[str, Any] = {}
        with suppress(KDError):  # reported with the model, or when it is built
            if spec.zoo is not None:
                card = find_card(spec.zoo, dataset_of(self.validator.document))[1]
                defaults = {"mean": list(card.mean), "std": list(card.std)}
            elif spec.run is not None:
                defaults = student_spec(FilePath(spec.run)).input
                if self.hub is not None and (hub_spec := from_hub(spec)).hub is not None:
                    defaults = {**defaults, **self.hub.input(hub_spec)}
            elif spec.hub is not None and self.hub is not None:
                defaults = self.hub.input(spec)
            elif (saved := recorded(spec)) is not None:
                defaults = saved.input
        return {**{key: value for key, value in defaults.items() if key in task.Input.model_fields}, **spec.input}
