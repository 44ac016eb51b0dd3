"""A stage of a plan, tried on dummy samples: its models, the wires, adapters, losses, optimiser and metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kd_core.check.dry_run import (
    META,
    DryRunComponents,
    DummyValues,
    dummy_like,
    field_hint,
    needs_values,
    tapped,
    to_meta,
    trusted_only,
    written,
)
from kd_core.check.models import DryModels
from kd_core.config import Builder, Lazy
from kd_core.config.schema import Path
from kd_core.config.syntax.tree import dotted
from kd_core.data.batch import STUDENT, Batch
from kd_core.data.partners import with_partners
from kd_core.errors import ConfigError, KDError, Unverified, did_you_mean, reason
from kd_core.plan.plan import StagePlan, TermPlan
from kd_core.taps.landmarks import known, places
from kd_core.taps.nested import map_tensors
from kd_core.taps.paths import module_at
from kd_core.taps.wires import Tap, Wire, describe_shapes
from kd_core.taps.wrappers import Capture
from kd_core.train.candidates import unfit
from kd_core.train.domain import takes_probabilities
from kd_core.train.doubts import untrained, without_validation
from kd_core.train.objective import StepInfo, Term
from kd_core.train.optim import check_plateau, parameter_groups
from kd_core.train.probe import PROBE, TooFewSamples, batch_norm_errors
from kd_core.train.stage import check_accumulation, check_parts
from kd_core.train.trainable import select, set_stage_mode
from kd_core.train.trial import small, try_training
from kd_core.train.values import Adapters, WireResolver, inputs_of

LARGE = 300_000_000
"""Parameters of a model that a check does not build with values."""
Placed = list[tuple[Path, Wire]]


class StageCheck:
    """Follows the wires of one stage through models without weights."""

    def __init__(self, components: DryRunComponents, stage: StagePlan, models: DryModels, builder: Builder) -> None:
        self.components, self.stage, self.dry, self.builder = components, stage, models, builder
        self.plan, self.models, self.adapters = components.plan, components.models, components.adapters
        self.frozen, self.findings = components.frozen, models.findings

    def run(self, size: int) -> None:
        """Run a stage's models in the modes they have in it, and all that is fed by them, on so many samples."""
        stage = self.stage
        try:
            raw = self.plan.task.dummy_batch(self._data(), size, training=True)
        except Unverified as error:  # only reading the data would tell
            self.paths_only()
            self.findings.cannot_verify(("stages", stage.name), error)
            return
        except KDError as error:
            self.paths_only()
            self.findings.report(("data",), error, data=stage.paths.get("data", ("data",)))
            return
        if (batch := self._prepared(raw)) is None:
            return
        wires_by_model = dict(self._places())
        if not self._landmarks(batch):
            return
        captures = {}
        for name, taps in self.plan.taps(stage).items():
            if name in self.models:
                set_stage_mode(self.components, stage, name)
                if (capture := self._capture(name, taps, batch, wires_by_model)) is not None:
                    captures[name] = capture
        if set(captures) == set(self.plan.taps(stage)):
            values = WireResolver(captures, batch.to(META), self.adapters)
            if self._adapters(values, batch) and self._fields(values):
                terms = [self._term(term, values, batch) for term in stage.terms.values()]
                self._accumulation([term for term in terms if term is not None])
                if all(terms) and set(self.models) == set(self.plan.models):
                    self._training([term for term in terms if term is not None])
            self._metric()
            self._scored()

    def _data(self) -> Any:
        """The stage's data, the calls built that the task tries; KDError where one of them fails."""
        try:
            return self.dry.with_calls_built(self.stage.data)
        except Unverified as error:
            self.findings.cannot_verify(self.stage.paths.get("data", ("data",)), error)
            return self.stage.data

    def paths_only(self) -> None:
        """Look up the modules that the stage's wires name, and nothing else."""
        for name, placed in self._places():
            if name in self.models:
                self._modules(self.models[name], placed)

    def _prepared(self, raw: Batch) -> Batch | None:
        """Samples as the models take them, None where one of them cannot."""
        problem_count = len(self.findings.problems)
        for name, wants in self.plan.inputs.items():
            try:
                self.plan.task.prepare(raw, {name: wants}, self.stage.data, training=True)
            except KDError as error:
                self.findings.report(("models", name), error, data=self.stage.paths.get("data", ("data",)))
        if len(self.findings.problems) > problem_count:
            return None
        try:
            batch = self.plan.task.prepare(raw, self.plan.inputs, self.stage.data, training=True)
            if self.stage.spec.partners is not None and STUDENT in self.plan.inputs:
                batch = with_partners(batch, batch.for_model(STUDENT), batch.inputs)
            return self.stage.views(batch)
        except KDError as error:
            self.findings.report(self.stage.path("views"), error)
            return None

    def _places(self) -> Iterator[tuple[str, Placed]]:
        """For each model, its wires with the places they are written in."""
        wires: dict[str, Placed] = {}
        for path, wire in (*written(self.plan, self.stage), *tapped(self.plan, self.stage)):
            wires.setdefault(wire.root, []).append((path, wire))
        yield from wires.items()

    def _landmarks(self, batch: Batch) -> bool:
        """Find the landmarks that the stage's wires name; whether all models could be run for that."""
        problem_count = len(self.findings.problems)
        for name in self.plan.by_landmark(self.stage):
            if name in self.models:
                try:
                    self.dry.know_landmarks(name, batch)
                except Exception as error:
                    shapes = describe_shapes(batch.for_model(name))
                    message = f"forward failed on a dummy input of shape {shapes}: {reason(error)}"
                    self.findings.report(("models", name), error if isinstance(error, KDError) else KDError(message))
        return len(self.findings.problems) == problem_count

    def _modules(self, model: nn.Module, placed: Placed) -> bool:
        """Whether every wire's module exists."""
        problem_count = len(self.findings.problems)
        for path, wire in placed:
            assert wire.tap is not None or wire.root in ("adapters", "batch")
            try:
                if wire.tap is not None and wire.tap.is_landmark:
                    if known(model):
                        places(model, wire.tap)
                elif wire.tap is not None and wire.tap.path:
                    module_at(model, wire.tap.path)
            except KDError as error:
                self.findings.report(path, error)
        return len(self.findings.problems) == problem_count

    def _capture(
        self, name: str, taps: list[Tap], batch: Batch, wires_by_model: Mapping[str, Placed]
    ) -> Capture | None:
        if not self._modules(self.models[name], wires_by_model.get(name, [])):
            return None
        if not taps:  # only adapters run it
            return Capture(None, {})
        try:
            return self.dry.forward(name, taps, batch)
        except TooFewSamples as error:
            self.findings.report(("models", name), error)
        except KDError:
            for path, wire in wires_by_model.get(name, []):  # which one is it?
                try:
                    self.dry.forward(name, [wire.tap] if wire.tap else [], batch)
                except KDError as error:
                    self.findings.report(path, error)
        except Exception:  # it does not take such samples, or does not run on the meta device
            return self._real_capture(name, taps, batch)
        return None

    def _real_capture(self, name: str, taps: list[Tap], batch: Batch) -> Capture | None:
        """What a pass on the CPU with random weights gives, whose errors say what is wrong."""
        if numbers(self.models[name]) > LARGE:
            self.findings.cannot_verify(("models", name), "it does not run on the meta device, and is too large to try")
            return None
        try:
            capture = self.dry.real_forward(name, taps, batch)
        except Exception as error:
            message = (
                f"forward failed on a dummy input of shape {describe_shapes(batch.for_model(name))}: {reason(error)}"
            )
            self.findings.report(("models", name), error if isinstance(error, KDError) else KDError(message))
            return None
        return replace(capture, at={tap: map_tensors(to_meta, value) for tap, value in capture.at.items()})

    def _adapters(self, values: WireResolver, batch: Batch) -> bool:
        for name in self.stage.adapters:
            plan = self.plan.adapters[name]
            path = plan.path if plan.borrowed is None else (*plan.path, "module")
            try:
                self._adapter(name, values, batch)
            except KDError as error:
                self.findings.report(path, error)
                return False
            except Exception as error:  # shapes that do not fit raise whatever the module raises
                positional, named = inputs_of(plan, lambda wired: describe_shapes(values.get(wired)))
                inputs_text = ", ".join([*positional, *(f"{key} {shape}" for key, shape in named.items())])
                self.findings.report(
                    path, KDError(f"forward failed on a dummy input of shape {inputs_text}: {reason(error)}")
                )
                return False
        self.frozen.remember(self.adapters)
        return True

    def _adapter(self, name: str, values: WireResolver, batch: Batch) -> None:
        """Build and run an adapter: on the meta device, else, where it reads values, on the CPU with random ones."""
        try:
            with META:
                self.adapters.build(name, values, self.models, self.builder)
            with torch.no_grad(), batch_norm_errors(len(batch)):
                self.adapters.to(META).try_out(name, values)
        except Exception as error:
            if not needs_values(error):
                raise
            shared = self.plan.adapters[name].shared
            models = {wire.root: self.dry.real(wire.root) for wire in shared}
            real, dummy = Adapters(self.plan.adapters, self.dry.fresh, self.plan.task.call), DummyValues(values, batch)
            builder = Builder(self.dry.policy, self.dry.run_values)  # its own: a builder keeps what it has built
            real.build(name, dummy, models, builder)
            with torch.no_grad(), batch_norm_errors(len(batch)):
                output = real.run(name, dummy)
            values.put(name, map_tensors(to_meta, output))
            if not shared or self.plan.adapters[name].spec.fresh:
                self.adapters.add_module(name, real.get_submodule(name).to(META))

    def _fields(self, values: WireResolver) -> bool:
        problem_count = len(self.findings.problems)
        for path, wire in written(self.plan, self.stage):
            try:
                values.get(wire)
            except KDError as error:
                self.findings.report(path, error)
        return len(self.findings.problems) == problem_count

    def _term(self, plan: TermPlan, values: WireResolver, batch: Batch) -> Term | None:
        """The loss, tried on values of the right shapes."""
        if (why := trusted_only([plan.loss, plan.values])) is not None:
            self.findings.cannot_verify(plan.path, why)
            return None
        stand = DummyValues(values, batch)
        try:
            term = Term(plan, self.builder, lambda: stand)
            term.materialize(lambda: stand)
            term(stand, StepInfo(0, 10, 1))
            if isinstance(plan.loss, Lazy):
                self._real_term(term, stand, batch)
            return term
        except KDError as error:
            self.findings.report(plan.path, error)
        except Exception as error:  # a torch.nn loss says what it wants in its own way
            inputs_text = ", ".join(f"{key} {describe_shapes(stand.get(wired))}" for key, wired in plan.wires.items())
            message = f"the loss failed on {inputs_text or 'no input'}: {reason(error)}"
            self.findings.report(plan.path, KDError(message, hint=field_hint(plan, stand)))
        return None

    def _real_term(self, term: Term, stand: DummyValues, batch: Batch) -> None:
        """A loss of someone else's, which may want probabilities: tried on what untrained models give.

        That takes a pass of each model; where values of both signs will do, it is not made.
        """
        if not takes_probabilities(term.module, stand.get(term.plan.wires.get("target", []))):
            try:
                term(stand.signed(), StepInfo(0, 10, 1))
                return
            except Exception:
                pass
        values = self._real_values(batch)
        if values is None:
            self.findings.cannot_verify(term.plan.path, "its models are too large to try what they give")
            return
        with torch.no_grad():
            term.check_domain(values)
            term(values, StepInfo(0, 10, 1))

    def _real_values(self, batch: Batch) -> WireResolver | None:
        """What the stage's wires carry with random weights on the CPU; None where its models are too large for that."""
        taps = self.plan.taps(self.stage)
        if sum(numbers(self.models[name]) for name in taps) > LARGE:
            return None
        adapters = Adapters(self.plan.adapters, self.dry.fresh, self.plan.task.call)
        values = WireResolver(
            {name: self.dry.real_forward(name, wanted, batch) for name, wanted in taps.items()}, batch, adapters
        )
        models = {name: self.dry.real(name) for name in taps}
        builder = Builder(self.dry.policy, self.dry.run_values)
        with torch.no_grad():
            for name in self.stage.adapters:
                adapters.build(name, values, models, builder)
                adapters.try_out(name, values)
        return values

    def _accumulation(self, terms: Sequence[Term]) -> None:
        """Whether what is built may see micro-batches."""
        try:
            check_accumulation(self.stage, terms, self.adapters)
            check_parts(self.stage, terms, processes=1)
        except KDError as error:
            self.findings.report((), error)

    def _training(self, terms: Sequence[Term]) -> None:
        """What learns, its optimiser and its scheduler."""
        if (why := trusted_only([self.stage.spec.optimizer, self.stage.spec.scheduler])) is not None:
            self.findings.cannot_verify(("stages", self.stage.name), why)
            return
        losses = nn.Module()
        for term in terms:
            losses.add_module(term.plan.name, term)
        self.frozen.remember(losses)
        spec, task = self.stage.spec, self.plan.task
        assert spec.optimizer is not None
        try:
            root, trained = select(self.components, self.stage, losses)
            groups = parameter_groups(spec.optimizer, root, dotted(self.stage.path("optimizer")))
            groups = [{**group, "params": small(group["params"])} for group in groups]
            scheduler = try_training(self.stage, groups, self.builder)
            best = task.mode if spec.monitor is None else spec.monitor.mode
            check_plateau(scheduler, spec, best, dotted(self.stage.path("scheduler")))
            problems = without_validation(self.stage, scheduler) if getattr(self.stage.data, "val", None) == 0 else []
            problems += unfit(self.plan, self.stage, self.models)
            nothing = untrained(self.stage, set(self.plan.taps(self.stage)), trained, self.adapters, losses)
            if problems := problems + ([] if nothing is None else [nothing]):
                raise ConfigError(problems)
        except KDError as error:
            self.findings.report((), error)

    def _metric(self) -> None:
        """Whether the task has the metric that chooses the best checkpoint, tried on the student in evaluation mode."""
        if self.stage.spec.monitor is None or STUDENT not in self.models:
            return
        task = self.plan.task
        try:
            batch = self._evaluated()
            metrics = task.metrics(self.dry.info)
            metrics.update(map_tensors(dummy_like, self._output(batch)), batch)
            metric_names = list(metrics.compute())
        except Exception as error:  # metrics of outputs that are not the task's
            self.findings.cannot_verify(self.stage.path("monitor"), f"a trial of the metrics failed: {reason(error)}")
            return
        if (name := self.stage.spec.monitor.metric) not in metric_names:
            path = (*self.stage.path("monitor"), "metric")
            self.findings.report(path, KDError(f"there is no metric {name!r}", hint=did_you_mean(name, metric_names)))

    def _scored(self) -> None:
        """Whether what the student gives in evaluation mode can be scored, where the task looks at that."""
        if (model := self.models.get(STUDENT)) is None or numbers(model) > LARGE:
            return
        try:
            batch = self._evaluated()
            self.plan.task.check_output(model, lambda: self._output(batch), batch, self.stage.data)
        except KDError as error:
            self.findings.report(("models", STUDENT), error)
        except Exception as error:  # a forward pass may raise anything
            message = f"a forward pass in evaluation mode failed: {reason(error)}"
            self.findings.cannot_verify(("models", STUDENT), message)

    def _evaluated(self) -> Batch:
        """Dummy samples as the student takes them in evaluation."""
        task, wants = self.plan.task, {STUDENT: self.plan.inputs[STUDENT]}
        raw = task.dummy_batch(self.stage.data, PROBE, training=False)
        return task.prepare(raw, wants, self.stage.data, training=False)

    def _output(self, batch: Batch) -> Any:
        """What the student gives in evaluation mode, on the meta device, else on the CPU."""
        self.models[STUDENT].eval()
        try:
            return self.dry.forward(STUDENT, [], batch).output
        except Exception:  # it does not run on the meta device
            return self.dry.real_forward(STUDENT, [], batch).output


def numbers(model: nn.Module) -> int:
    """How many numbers its parameters are, those of lazy layers not counted."""
    return sum(parameter.numel() for parameter in model.parameters() if not is_lazy(parameter))
