"""Everything an experiment is made of, built once: data, models, adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from kd_core.config import Builder, Lazy, Policy
from kd_core.data.batch import STUDENT, Batch, DatasetInfo, Splits
from kd_core.device.distributed import main_first
from kd_core.device.runtime import Runtime
from kd_core.device.seeding import derive, seeded
from kd_core.errors import KDError
from kd_core.models.factory import ModelSource
from kd_core.plan.plan import Plan, StagePlan
from kd_core.runs.progress import Reporter
from kd_core.taps.wrappers import Capture, ForwardWrapper
from kd_core.task import check_model
from kd_core.train.objective import Adapters, WireResolver

PROBE = 2
"""Samples in the probe batch, from which adapters learn their widths."""


class Data:
    """The data of an experiment, each ``data:`` value read once, and told of once."""

    def __init__(self, plan: Plan, policy: Policy, reporter: Reporter) -> None:
        self._plan, self._policy, self._reporter = plan, policy, reporter
        self._read: list[tuple[Any, Any, Splits]] = []

    def get(self, spec: Any) -> tuple[Any, Splits]:
        """A ``data:`` value with its calls built, and its splits."""
        for known, built, splits in self._read:
            if known is spec or known == spec:
                return built, splits
        built = build_fields(spec, Builder(self._policy, {}, self._reporter.debug))
        with main_first():
            splits = self._plan.task.load(built, seed=self._plan.seed, inputs=self._plan.inputs)
        self._read.append((spec, built, splits))
        for line in () if self._reporter.silent else splits.describe():
            self._reporter.info(f"data: {line}")
        return built, splits

    def close(self) -> None:
        """End what reads samples."""
        for _, _, splits in self._read:
            splits.close()

    def steps(self, stage: StagePlan) -> tuple[int, int]:
        """Steps per epoch and in all of a stage."""
        size, samples = stage.spec.batch_size, len(self.get(stage.data)[1].train)
        assert size is not None
        if samples == 0:
            raise KDError("the training split is empty", path="data")
        per_epoch = samples // size if stage.spec.drop_last else math.ceil(samples / size)
        if per_epoch == 0:
            message = f"{samples} training samples do not fill a batch of {size}"
            raise KDError(message, path=f"stages.{stage.name}.drop_last")
        return per_epoch, stage.spec.steps or per_epoch * (stage.spec.epochs or 0)


class Components:
    """The built experiment. Each model's initial weights depend on (seed, name) alone; the student's are those
    of ``torch.manual_seed(seed)`` followed by its constructor."""

    def __init__(self, plan: Plan, policy: Policy, runtime: Runtime, data: Data, reporter: Reporter) -> None:
        self.plan, self.policy, self.runtime, self.data, self.log = plan, policy, runtime, data, reporter.debug
        spec, first = data.get(plan.data)
        builder = Builder(policy, first.info.run_values, self.log)
        models = build_models(plan, builder, first.info, reporter.info)
        for name, model in models.items():
            check_model(plan.task, name, model, plan.inputs[name], spec)
        self.models = {name: runtime.place(model) for name, model in models.items()}
        self.adapters = Adapters(plan.adapters).to(runtime.device)
        for stage in plan.stages:
            probe(plan, stage, self.models, self.adapters, self._sample(stage), builder)
        runtime.place(self.adapters)

    def _sample(self, stage: StagePlan) -> Batch:
        """The first training samples, as the models take them."""
        spec, splits = self.data.get(stage.data)
        positions = torch.arange(min(PROBE, len(splits.train)))
        raw = next(iter(splits.train.batches([positions], epoch=0, seed=0, augment=False)))
        batch = self.plan.task.prepare(raw.to(self.runtime.device), self.plan.inputs, spec, training=True)
        return self.runtime.format(stage.views(batch))

    def changing(self) -> list[str]:
        """The models whose weights or statistics the run may change: what a checkpoint must hold."""
        patterns = [pattern.split(".")[0] for stage in self.plan.stages for pattern in stage.spec.train or ()]

        def changes(name: str) -> bool:
            spec = self.plan.models[name]
            return (
                name == STUDENT
                or spec.trainable
                or spec.mode == "train"
                or any(fnmatch(name, each) for each in patterns)
            )

        return [name for name in self.models if changes(name)]


def build_models(plan: Plan, builder: Builder, info: DatasetInfo, log: Callable[[str], None]) -> dict[str, nn.Module]:
    """Every model of the plan."""
    models = {}
    for name, spec in plan.models.items():
        source = ModelSource(builder, f"models.{name}", plan.dataset, info, log, hub=plan.task.hub)
        with seeded(plan.seed if name == STUDENT else derive(plan.seed, "model", name)):
            models[name] = source.make(name, spec)
    return models


def probe(
    plan: Plan, stage: StagePlan, models: Mapping[str, nn.Module], adapters: Adapters, batch: Batch, builder: Builder
) -> WireResolver:
    """Run what a stage looks at once, in eval mode without gradients, and build its adapters from what comes by."""
    captures: dict[str, Capture] = {}
    with torch.no_grad():
        for name, taps in plan.taps(stage).items():
            modes = {module: module.training for module in models[name].modules()}
            wrapper = ForwardWrapper(models[name].eval(), taps, name=name, call=plan.task.call)
            try:
                captures[name] = wrapper(batch.for_model(name))
            finally:
                wrapper.release()
                for module, training in modes.items():
                    module.training = training
        values = WireResolver(captures, batch, adapters)
        for name in stage.adapters:
            with seeded(derive(plan.seed, "adapter", name)):
                adapters.build(name, values, models, builder)
            adapters.to(batch.index.device)
    return values


class ModuleRoot(nn.Module):
    """Everything a run is made of; errors about patterns call it by this name."""


def root_module(models: Mapping[str, nn.Module], adapters: nn.Module, losses: nn.Module | None = None) -> nn.Module:
    """One module over everything, in which patterns such as ``student.layer1`` or ``adapters.*`` are looked up."""
    root = ModuleRoot()
    for name, model in models.items():
        root.add_module(name, model)
    root.add_module("adapters", adapters)
    if losses is not None:
        root.add_module("losses", losses)
    return root


def build_fields(spec: BaseModel, builder: Builder) -> BaseModel:
    """A shaped value with the calls in its fields built."""
    built = {key: builder.build(value, path=f"data.{key}") for key, value in dict(spec).items() if has_call(value)}
    return spec.model_copy(update=built)


def has_call(value: Any) -> bool:
    """Whether a call stands anywhere in a value."""
    if isinstance(value, Lazy):
        return True
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(has_call(item) for item in items)
