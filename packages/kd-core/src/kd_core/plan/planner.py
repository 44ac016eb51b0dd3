"""From a document to a plan: shape, plug in, locate every call, bind every wire. Builds nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, cast

from kd_core.config import RUN_NAMES, Document, Lazy, Policy
from kd_core.config.runtime import RuntimeSpec
from kd_core.config.schema import (
    ExperimentSpec,
    Path,
)
from kd_core.config.validation import Validator, show_value
from kd_core.errors import ConfigError, ConfigProblem, KDError, did_you_mean
from kd_core.observers import OBSERVERS
from kd_core.plan.binder import WireBinder
from kd_core.plan.models import ModelPlanner
from kd_core.plan.plan import Plan
from kd_core.plan.stages import StagePlanner, planned_data
from kd_core.plan.trackers import planned_trackers
from kd_core.runs.run_folder import local_folders
from kd_core.task import TASKS, Task

MODEL_LISTS = ("compile", "cpu_kernels")
"""The keys of ``runtime:`` whose values are names of models."""


def plan(document: Document, policy: Policy) -> Plan:
    """Shape and check a document; ConfigError with all its problems."""
    planner = Planner(document, policy)
    plan = planner.plan()
    if planner.problems or plan is None:
        raise ConfigError(planner.problems)
    return plan


class Planner:
    """Goes through a document once and keeps every problem it meets."""

    def __init__(self, document: Document, policy: Policy) -> None:
        self.document = document
        self.policy = policy
        self.validator = Validator(document)
        self.binder = WireBinder(self.validator, policy)

    @property
    def problems(self) -> list[ConfigProblem]:
        """What is wrong, as far as :meth:`plan` has come."""
        return self.validator.problems

    def plan(self) -> Plan | None:
        """The plan of what is sound; None where too little is."""
        spec, lost = self.validator.validate_partial(ExperimentSpec, self.document.data, task="", data={}, models={})
        if spec is None:
            return None
        self._import(spec.imports)
        task = None if "task" in lost else self._task(spec.task)
        if task is not None:
            self.binder.output, self.binder.mask = task.output, task.mask
            self.binder.builder.run_names = [*RUN_NAMES, *task.run_values]
        data = None if "data" in lost else planned_data(self.binder, task, spec.data, ("data",))
        if "models" in lost:
            return None
        model_planner, stage_planner = ModelPlanner(self.binder, task), StagePlanner(self.binder, task)
        models = model_planner.models(spec.models)
        inputs = model_planner.inputs(models)
        adapters = stage_planner.adapters(spec.adapters)
        stages = stage_planner.stages(spec.stages, adapters, data)
        if task is not None and data is not None:
            stage_planner.same_inputs(
                adapters, {name: task.effective_input(spec, data) for name, spec in inputs.items()}
            )
        evaluation = model_planner.evaluation(models)
        runtime = self._runtime(spec.runtime)
        return Plan(
            document=replace(
                self.document, written={("models", name): path for name, path in model_planner.paths.items()}
            ),
            name=spec.name or FilePath(self.document.file).stem,
            seed=spec.seed,
            task=cast(Task, task),  # None only beside problems, as the data
            data=self._as_evaluated(task, data, evaluation),
            models=models,
            inputs=inputs,
            adapters=adapters,
            stages=tuple(replace(stage, data=self._as_evaluated(task, stage.data, evaluation)) for stage in stages),
            runtime=runtime or RuntimeSpec(),
            fast=spec.runtime == "fast",
            checkpoint=spec.checkpoint,
            log_every=spec.log_every,
            trackers=planned_trackers(self.validator, self.policy, spec.trackers),
            observers=self._observers(spec.observers),
        )

    @staticmethod
    def _as_evaluated(task: Task | None, data: Any, evaluation: Mapping[str, Any]) -> Any:
        return data if task is None or data is None or not evaluation else task.as_evaluated(data, evaluation)

    # -- the parts of the top level

    def _import(self, names: Sequence[str]) -> None:
        """Import local packages that register things. With ``--trust`` only are local ones looked for, by calls too."""
        if self.policy.trust:
            sys.path += [folder for folder in local_folders(FilePath(self.document.file)) if folder not in sys.path]
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

    def _runtime(self, value: Any) -> RuntimeSpec | None:
        if isinstance(value, str):
            return RuntimeSpec()
        spec = self.validator.validate(RuntimeSpec, value, ("runtime",))
        if spec is None:
            return None
        for key, message, hint in runtime_faults(spec):
            self.validator.report(("runtime", key), message, hint)
        return spec.model_copy(update={key: self._models_of(key, getattr(spec, key)) for key in MODEL_LISTS})

    def _models_of(self, key: str, names: list[str]) -> list[str]:
        """The models that a key of ``runtime:`` names, those of a group one by one."""
        for position, name in enumerate(names):
            if name not in self.binder.models:
                hint = did_you_mean(name, self.binder.models)
                self.validator.report(("runtime", key, position), f"there is no model {name!r}", hint)
        return [member for name in names for member in self.binder.groups.get(name, (name,))]

    def _observers(self, specs: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
        """The hyperparameters of each observer that is named."""
        plans: dict[str, Mapping[str, Any]] = {}
        for name, values in specs.items():
            path: Path = ("observers", name)
            try:
                observer = OBSERVERS.get(name)
            except KDError as error:
                self.validator.add_error(path, error)
                continue
            if values is not None and not isinstance(values, Mapping):
                self.validator.report(path, f"must be a mapping of its hyperparameters, not {show_value(values)}")
                continue
            for key, value in (values or {}).items():
                if isinstance(value, Lazy):
                    self.validator.report((*path, key), f"must be a plain value, not {show_value(value)}")
            values = {key: value for key, value in (values or {}).items() if not isinstance(value, Lazy)}
            self.binder.parameters(observer, name, values, path, [])
            plans[name] = values
        return plans


def runtime_faults(spec: RuntimeSpec) -> Iterator[tuple[str, str, str | None]]:
    """The keys of ``runtime:`` that go with no machine, for others contradict them; with a message and a hint each."""
    if spec.cuda_graphs and not spec.compile:
        yield "cuda_graphs", "CUDA graphs need compiled models: `compile` names none", "write `compile: [student]`"
    if spec.cuda_graphs and spec.device not in ("auto", "cuda"):
        yield "cuda_graphs", f"CUDA graphs need a CUDA device, and `device` is {spec.device}", "leave one of them out"
    if spec.precision == "fp16" and spec.device == "cpu":
        yield "precision", "fp16 needs a GPU, and `device` is cpu", "write `bf16`, or `fp32`"
    if spec.cpu_kernels and spec.device not in ("auto", "cpu"):
        yield "cpu_kernels", f"these kernels are for a CPU, and `device` is {spec.device}", "leave one of them out"
