"""Checking a plan without data: models on the meta device, dummy samples, and every wire followed.

What cannot be followed (a model that only a user's trust lets us build, a data set whose shapes only reading
tells) is reported as unverified, not as right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kd_core.check.dry_run import (
    META,
    DryRunComponents,
    DummyValues,
    dummy_like,
    field_hint,
    needs_values,
    reason,
    to_meta,
    trusted_only,
    try_step,
    written,
)
from kd_core.config import Builder, Policy
from kd_core.config.schema import ModelSpec, Path
from kd_core.config.syntax.tree import dotted
from kd_core.data.batch import STUDENT, Batch, DatasetInfo
from kd_core.errors import ConfigProblem, KDError, Unverified, did_you_mean
from kd_core.models.factory import ModelSource, described
from kd_core.plan.plan import Plan, StagePlan, TermPlan
from kd_core.taps.nested import map_tensors
from kd_core.taps.table import TapRow, module_table
from kd_core.taps.wires import Tap, Wire, describe_shapes
from kd_core.taps.wrappers import OUTPUT, Capture, module_at
from kd_core.train.objective import Adapters, StepInfo, Term, WireResolver, inputs_of
from kd_core.train.optim import build_optimizer, build_scheduler, check_plateau
from kd_core.train.probe import MORE, ONE_VALUE, PROBE, forward, restored
from kd_core.train.trainable import FrozenWhenBuilt, select, set_stage_mode

LARGE = 300_000_000
"""Parameters of a model that a check does not build with values."""
Placed = list[tuple[Path, Wire]]


def verify(plan: Plan, policy: Policy, *, whole: bool = True) -> tuple[list[ConfigProblem], list[ConfigProblem]]:
    """The problems that building and running everything on dummy samples shows, and what could not be verified.

    Of a plan that is not ``whole``, because parts of its config are wrong, only the modules that wires name.
    """
    verifier = Verifier(plan, policy)
    with restored(()):  # random states are as before
        verifier.run(whole)
    return list(dict.fromkeys(verifier.problems)), list(dict.fromkeys(verifier.unverified))


@dataclass
class Verifier:
    """Follows a plan's wires through models without weights."""

    plan: Plan
    policy: Policy
    problems: list[ConfigProblem] = field(default_factory=list)
    unverified: list[ConfigProblem] = field(default_factory=list)

    def __post_init__(self) -> None:
        sound = self.plan.task is not None and self.plan.data is not None
        self.info = self.plan.task.info(self.plan.data) if sound else DatasetInfo()
        dummy = self.plan.task.dummy_info(self.plan.data) if sound else DatasetInfo()
        self.run_values = {"steps": 10, "steps_per_epoch": 1, **dummy.run_values}
        self.builder = Builder(self.policy, self.run_values)
        self.models: dict[str, nn.Module] = {}
        self.adapters, self.frozen = Adapters(self.plan.adapters), FrozenWhenBuilt()
        self._real: dict[str, nn.Module] = {}

    @property
    def parts(self) -> DryRunComponents:
        """What training would select from."""
        return DryRunComponents(self.plan, self.models, self.adapters, self.frozen)

    def run(self, whole: bool = True) -> None:
        """Check models, then each stage."""
        for name, spec in self.plan.models.items():
            if (model := self._model(name, spec)) is not None:
                self.models[name] = model
                self.frozen.remember(model)
        for stage in self.plan.stages:
            if not whole:
                self._paths_only(stage)
                continue
            before = len(self.problems)
            self._stage(stage, PROBE)
            if any(ONE_VALUE in problem.message for problem in self.problems[before:]):
                del self.problems[before:]
                self._stage(stage, MORE)

    # -- models

    def _model(self, name: str, spec: ModelSpec) -> nn.Module | None:
        if (why := self._not_to_build(spec)) is not None:
            self._unverified(("models", name), why)
            return None
        try:
            return self._built(name, spec)
        except Unverified as error:
            self._unverified(("models", name), error)
        except KDError as error:
            self._report(("models", name), error)
        except Exception as error:  # a constructor may raise anything
            self._report(("models", name), KDError(f"it cannot be built: {reason(error)}"))
        return None

    def _built(self, name: str, spec: ModelSpec) -> nn.Module:
        """On the meta device, else, where a constructor reads values, on the CPU and then moved."""
        try:
            with META:
                return self.source(name).make(name, spec).to(META)
        except Exception as error:
            if not needs_values(error):
                raise
            return self.source(name).make(name, spec).to(META)

    def source(self, name: str) -> ModelSource:
        """How a model is made without weights."""
        builder = Builder(self.policy, self.run_values)  # its own: it keeps what it builds, and where that is
        path = f"models.{name}"
        hub = self.plan.task.hub if self.plan.task is not None else None
        return ModelSource(builder, path, self.plan.dataset, self.info, lambda _: None, structure=True, hub=hub)

    def _not_to_build(self, spec: ModelSpec) -> str | None:
        """Why a model is not built in a check, or None."""
        if spec.run is not None:
            try:
                return self._not_to_build(described(FilePath(spec.run)))
            except KDError as error:
                return str(error)
        return trusted_only([spec.call, spec.extra, spec.edit])

    # -- a stage

    def _stage(self, stage: StagePlan, size: int) -> None:
        """Run a stage's models in the modes they have in it, and all that is fed by them, on so many samples."""
        try:
            raw = self.plan.task.dummy_batch(stage.data, size, training=True)
        except KDError as error:  # only reading the data would tell
            self._paths_only(stage)
            self._unverified(("stages", stage.name), error)
            return
        if (batch := self._prepared(raw, stage)) is None:
            return
        wires_by_model = dict(self._places(stage))
        self._kept_outputs(wires_by_model)
        captures = {}
        for name, taps in self.plan.taps(stage).items():
            if name in self.models:
                set_stage_mode(self.parts, stage, name)
                if (capture := self._capture(name, taps, batch, wires_by_model)) is not None:
                    captures[name] = capture
        if set(captures) == set(self.plan.taps(stage)):
            values = WireResolver(captures, batch.to(META), self.adapters)
            if self._adapters(stage, values, batch) and self._fields(stage, values):
                terms = [self._term(term, values, batch) for term in stage.terms.values()]
                if all(terms) and set(self.models) == set(self.plan.models):
                    self._training(stage, [term for term in terms if term is not None])
            self._metric(stage)

    def _prepared(self, raw: Batch, stage: StagePlan) -> Batch | None:
        """Samples as the models take them, None where one of them cannot."""
        before = len(self.problems)
        for name, wants in self.plan.inputs.items():
            try:
                self.plan.task.prepare(raw, {name: wants}, stage.data, training=True)
            except KDError as error:
                self._report(("models", name), error, data=stage.paths.get("data", ("data",)))
        if len(self.problems) > before:
            return None
        try:
            return stage.views(self.plan.task.prepare(raw, self.plan.inputs, stage.data, training=True))
        except KDError as error:
            self._report(stage.path("views"), error)
            return None

    def _places(self, stage: StagePlan) -> Iterator[tuple[str, Placed]]:
        """For each model, its wires with the places they are written in."""
        wires: dict[str, Placed] = {}
        for path, wire in written(self.plan, stage):
            wires.setdefault(wire.root, []).append((path, wire))
        yield from wires.items()

    def _kept_outputs(self, wires_by_model: Mapping[str, Placed]) -> None:
        """What a model with ``cache: true`` says is kept, and nothing from its inside."""
        for path, wire in ((path, wire) for placed in wires_by_model.values() for path, wire in placed):
            spec = self.plan.models.get(wire.root)
            if spec is not None and spec.cache and wire.tap != OUTPUT:
                hint = f"leave models.{wire.root}.cache out"
                self._report(path, KDError(f"{wire} is not cached: only the model's output is", hint=hint))

    def _paths_only(self, stage: StagePlan) -> None:
        for name, placed in self._places(stage):
            if name in self.models:
                self._modules(self.models[name], placed)

    def _modules(self, model: nn.Module, placed: Placed) -> bool:
        """Whether every wire's module exists."""
        before = len(self.problems)
        for path, wire in placed:
            assert wire.tap is not None or wire.root in ("adapters", "batch")
            try:
                if wire.tap is not None and wire.tap.path:
                    module_at(model, wire.tap.path)
            except KDError as error:
                self._report(path, error)
        return len(self.problems) == before

    def _capture(
        self, name: str, taps: list[Tap], batch: Batch, wires_by_model: Mapping[str, Placed]
    ) -> Capture | None:
        if not self._modules(self.models[name], wires_by_model.get(name, [])):
            return None
        try:
            return self._forward(name, taps, batch)
        except KDError:
            for path, wire in wires_by_model.get(name, []):  # which one is it?
                try:
                    self._forward(name, [wire.tap] if wire.tap else [], batch)
                except KDError as error:
                    self._report(path, error)
        except Exception:  # it does not take such samples, or does not run on the meta device
            return self._real_capture(name, taps, batch)
        return None

    def _real_capture(self, name: str, taps: list[Tap], batch: Batch) -> Capture | None:
        """What a pass on the CPU with random weights gives, whose errors say what is wrong."""
        if sum(parameter.numel() for parameter in self.models[name].parameters()) > LARGE:
            self._unverified(("models", name), "it does not run on the meta device, and is too large to try")
            return None
        try:
            capture = self._real_forward(name, taps, batch)
        except Exception as error:
            message = (
                f"forward failed on a dummy input of shape {describe_shapes(batch.for_model(name))}: {reason(error)}"
            )
            self._report(("models", name), error if isinstance(error, KDError) else KDError(message))
            return None
        return replace(capture, at={tap: map_tensors(to_meta, value) for tap, value in capture.at.items()})

    def _forward(self, name: str, taps: list[Tap], batch: Batch) -> Capture:
        return forward(name, self.models[name], taps, self.plan, batch.to(META))

    def _real_forward(self, name: str, taps: list[Tap], batch: Batch) -> Capture:
        return forward(name, self._real_model(name), taps, self.plan, batch)

    def _real_model(self, name: str) -> nn.Module:
        """The model with random weights on the CPU, in the mode of the one on the meta device."""
        if name not in self._real:
            self._real[name] = self.source(name).make(name, self.plan.models[name])
        real = self._real[name]
        for part, twin in zip(real.modules(), self.models[name].modules(), strict=True):
            part.training = twin.training
        return real

    # -- what is fed by the models

    def _adapters(self, stage: StagePlan, values: WireResolver, batch: Batch) -> bool:
        for name in stage.adapters:
            plan = self.plan.adapters[name]
            path = plan.path if plan.borrowed is None else (*plan.path, "module")
            try:
                self._adapter(name, values, batch)
            except KDError as error:
                self._report(path, error)
                return False
            except Exception as error:  # shapes that do not fit raise whatever the module raises
                positional, named = inputs_of(plan, lambda wired: describe_shapes(values.get(wired)))
                inputs_text = ", ".join([*positional, *(f"{key} {shape}" for key, shape in named.items())])
                self._report(path, KDError(f"forward failed on a dummy input of shape {inputs_text}: {reason(error)}"))
                return False
        self.frozen.remember(self.adapters)
        return True

    def _adapter(self, name: str, values: WireResolver, batch: Batch) -> None:
        """Build and run an adapter: on the meta device, else, where it reads values, on the CPU with random ones."""
        try:
            with META:
                self.adapters.build(name, values, self.models, self.builder)
            with torch.no_grad():
                self.adapters.to(META).try_out(name, values)
        except Exception as error:
            if not needs_values(error):
                raise
            borrowed = self.plan.adapters[name].borrowed
            models = {borrowed.root: self._real_model(borrowed.root)} if borrowed is not None else {}
            real, dummy = Adapters(self.plan.adapters), DummyValues(values, batch)
            real.build(name, dummy, models, Builder(self.policy, self.run_values))  # its own: it keeps what it builds
            with torch.no_grad():
                output = real.run(name, dummy)
            values.put(name, map_tensors(to_meta, output))
            if borrowed is None:
                self.adapters.add_module(name, real.get_submodule(name).to(META))

    def _fields(self, stage: StagePlan, values: WireResolver) -> bool:
        before = len(self.problems)
        for path, wire in written(self.plan, stage):
            try:
                values.get(wire)
            except KDError as error:
                self._report(path, error)
        return len(self.problems) == before

    def _term(self, plan: TermPlan, values: WireResolver, batch: Batch) -> Term | None:
        """The loss, tried on values of the right shapes."""
        if (why := trusted_only([plan.loss, plan.values])) is not None:
            self._unverified(plan.path, why)
            return None
        stand = DummyValues(values, batch)
        try:
            term = Term(plan, self.builder, lambda: stand)
            term.materialize(lambda: stand)
            term(stand, StepInfo(0, 10, 1))
            return term
        except KDError as error:
            self._report(plan.path, error)
        except Exception as error:  # a torch.nn loss says what it wants in its own way
            inputs_text = ", ".join(f"{key} {describe_shapes(stand.get(wired))}" for key, wired in plan.wires.items())
            message = f"the loss failed on {inputs_text or 'no input'}: {reason(error)}"
            self._report(plan.path, KDError(message, hint=field_hint(plan, stand)))
        return None

    def _training(self, stage: StagePlan, terms: Sequence[Term]) -> None:
        """What learns, its optimiser and its scheduler."""
        if (why := trusted_only([stage.spec.optimizer, stage.spec.scheduler])) is not None:
            self._unverified(("stages", stage.name), why)
            return
        losses = nn.Module()
        for term in terms:
            losses.add_module(term.plan.name, term)
        self.frozen.remember(losses)
        assert stage.spec.optimizer is not None
        try:
            root, _ = select(self.parts, stage, losses)
            where = dotted(stage.path("optimizer"))
            optimizer = build_optimizer(stage.spec.optimizer, root, self.builder, where)
            where = dotted(stage.path("scheduler"))
            scheduler, _ = build_scheduler(stage.spec.scheduler, optimizer, self.builder, where)
            monitor = stage.spec.monitor
            check_plateau(scheduler, stage.spec, self.plan.task.mode if monitor is None else monitor.mode, where)
            if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
                try_step(scheduler, where)
        except KDError as error:
            self._report((), error)

    def _metric(self, stage: StagePlan) -> None:
        """Whether the task has the metric that chooses the best checkpoint, tried on the student in evaluation mode."""
        if stage.spec.monitor is None or STUDENT not in self.models:
            return
        task, wants = self.plan.task, {STUDENT: self.plan.inputs[STUDENT]}
        try:
            raw = task.dummy_batch(stage.data, PROBE, training=False)
            batch = task.prepare(raw, wants, stage.data, training=False)
            self.models[STUDENT].eval()
            try:
                output = self._forward(STUDENT, [], batch).output
            except Exception:  # it does not run on the meta device
                output = self._real_forward(STUDENT, [], batch).output
            metrics = task.metrics(self.info)
            metrics.update(map_tensors(dummy_like, output), batch)
            metric_names = list(metrics.compute())
        except Exception as error:  # metrics of outputs that are not the task's
            self._unverified(stage.path("monitor"), f"a trial of the metrics failed: {reason(error)}")
            return
        if (name := stage.spec.monitor.metric) not in metric_names:
            path = (*stage.path("monitor"), "metric")
            self._report(path, KDError(f"there is no metric {name!r}", hint=did_you_mean(name, metric_names)))

    def _unverified(self, path: Path, why: str | KDError) -> None:
        """Keep that something at ``path`` cannot be verified; an error says why, and where below ``path``."""
        error = why if isinstance(why, KDError) else KDError(why)
        self.unverified += error.at(*path).problems

    def _report(self, path: Path, error: KDError, data: Path = ("data",)) -> None:
        """Keep an error that may know its own place, in full or below ``path``; ``data`` is where the data are."""
        for problem in error.problems:
            first, *rest = problem.path.split(".")
            placed = replace(problem, path=dotted((*data, *rest))) if first == "data" else problem.below(*path)
            self.problems.append(self.plan.document.place(placed))


def model_taps(plan: Plan, policy: Policy, name: str) -> list[TapRow]:
    """The table of a model's modules, from dummy samples through the model without weights."""
    if name not in plan.models:
        raise KDError(f"there is no model {name!r}", hint=did_you_mean(name, list(plan.models)))
    model = Verifier(plan, policy).source(name).make(name, plan.models[name])
    raw = plan.task.dummy_batch(plan.data, PROBE, training=True)
    batch = plan.task.prepare(raw, plan.inputs, plan.data, training=True)
    return module_table(model, batch.for_model(name), plan.task.call)
