"""Checking a plan without data: models on the meta device, made-up samples, and every wire followed.

What cannot be followed (a model that only a user's trust lets us build, a data set whose shapes only reading
tells) is reported as unverified, not as right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.config import Builder, Call, Lazy, Policy
from kd_core.errors import ConfigError, KDError, Problem, did_you_mean
from kd_core.models import ModelSource, described
from kd_core.objective import Adapters, Clock, Term, Values
from kd_core.plan import AdapterPlan, Plan, StagePlan, TermPlan
from kd_core.spec import ModelSpec, Path
from kd_core.taps import Row, module_table
from kd_core.task import Batch, map_tensors
from kd_core.wires import Tap, Wire
from kd_core.world import PROBE
from kd_core.wrappers import Capture, ForwardWrapper, module_at

META = torch.device("meta")
Placed = list[tuple[Path, Wire]]


def verify(plan: Plan, policy: Policy) -> tuple[list[Problem], list[str]]:
    """The problems that building and running everything on made-up samples shows, and what could not be verified."""
    verifier = Verifier(plan, policy)
    verifier.run()
    return verifier.problems, list(dict.fromkeys(verifier.unverified))


@dataclass
class Verifier:
    """Follows a plan's wires through models without weights."""

    plan: Plan
    policy: Policy
    problems: list[Problem] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        facts = self.plan.task.facts(self.plan.data)
        self.num_classes = facts.num_classes
        stand_in = 10 if facts.num_classes is None else facts.num_classes
        self.builder = Builder(
            self.policy,
            {"num_classes": stand_in, "num_samples": 100, "steps": 10, "steps_per_epoch": 1, "targets": [0] * 100},
        )

    def run(self) -> None:
        """Check models, then each stage."""
        models = {
            name: model for name, spec in self.plan.models.items() if (model := self._model(name, spec)) is not None
        }
        adapters = Adapters(self.plan.adapters)
        for stage in self.plan.stages:
            self._stage(stage, models, adapters)

    # -- models

    def _model(self, name: str, spec: ModelSpec) -> nn.Module | None:
        if (reason := self._not_to_build(spec)) is not None:
            self.unverified.append(f"models.{name}: {reason}")
            return None
        source = ModelSource(
            self.builder, f"models.{name}", self.plan.dataset, self.num_classes, lambda _: None, structure=True
        )
        try:
            return self._built(source, name, spec)
        except KDError as error:
            self._report(("models", name), error)
        except Exception as error:  # a constructor may raise anything
            self._report(("models", name), KDError(f"it cannot be built: {reason(error)}"))
        return None

    @staticmethod
    def _built(source: ModelSource, name: str, spec: ModelSpec) -> nn.Module:
        """On the meta device, else, where a constructor needs values, on the CPU and then moved."""
        try:
            with META:
                return source.make(name, spec).to(META)
        except (NotImplementedError, RuntimeError, TypeError):
            return source.make(name, spec).to(META)

    def _not_to_build(self, spec: ModelSpec) -> str | None:
        """Why a model is not built in a check, or None."""
        if spec.run is not None:
            try:
                return self._not_to_build(described(FilePath(spec.run)))
            except KDError as error:
                return str(error)
        for call in calls_in([spec.call, spec.rest, spec.edit]):
            try:
                Policy().locate(call.target, call.mark)
            except KDError:
                return f"{call.target} is built in training only, for it is not a known package's"
        return None

    # -- a stage

    def _stage(self, stage: StagePlan, models: Mapping[str, nn.Module], adapters: Adapters) -> None:
        try:
            raw = self.plan.task.example(stage.data, PROBE)
            batch = self.plan.task.prepare(raw, self.plan.inputs, stage.data)
        except KDError as error:
            self._paths_only(stage, models)
            self.unverified.append(f"stages.{stage.index}: {error}")
            return
        places = dict(self._places(stage))
        captures = {
            name: capture
            for name, taps in self.plan.taps(stage).items()
            if name in models and (capture := self._capture(name, models[name], taps, batch, places)) is not None
        }
        if set(captures) != set(self.plan.taps(stage)):
            return
        values = Values(captures, batch.to(META), adapters)
        if self._adapters(stage, values, models, adapters) and self._fields(stage, values):
            for term in stage.terms.values():
                self._term(term, values, batch)

    def _places(self, stage: StagePlan) -> Iterator[tuple[str, Placed]]:
        """For each model, its wires with the places they are written in."""
        found: dict[str, Placed] = {}
        for path, wire in written(self.plan, stage):
            found.setdefault(wire.root, []).append((path, wire))
        yield from found.items()

    def _paths_only(self, stage: StagePlan, models: Mapping[str, nn.Module]) -> None:
        for name, placed in self._places(stage):
            if name in models:
                self._modules(models[name], placed)

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
        self, name: str, model: nn.Module, taps: list[Tap], batch: Batch, places: Mapping[str, Placed]
    ) -> Capture | None:
        if not self._modules(model, places.get(name, [])):
            return None
        try:
            return self._forward(name, model, taps, batch)
        except KDError:
            for path, wire in places.get(name, []):  # which one is it?
                try:
                    self._forward(name, model, [wire.tap] if wire.tap else [], batch)
                except KDError as error:
                    self._report(path, error)
        except Exception as error:  # not every model runs on the meta device
            self.unverified.append(f"models.{name}: a trial run failed: {reason(error)}")
        return None

    def _forward(self, name: str, model: nn.Module, taps: list[Tap], batch: Batch) -> Capture:
        wrapper = ForwardWrapper(model.eval(), taps, name=name, call=self.plan.task.call)
        try:
            with torch.no_grad():
                return wrapper(batch.to(META).for_model(name))
        finally:
            wrapper.release()

    def _adapters(self, stage: StagePlan, values: Values, models: Mapping[str, nn.Module], adapters: Adapters) -> bool:
        for name in stage.adapters:
            path = self.plan.adapters[name].path
            try:
                with META:
                    adapters.build(name, values, models, self.builder)
                adapters.to(META).eval()
                with torch.no_grad():
                    adapters.run(name, values)
            except KDError as error:
                self._report(path, error)
                return False
            except Exception as error:  # shapes that do not fit raise whatever the module raises
                self._report(path, KDError(f"it cannot run: {reason(error)}"))
                return False
        return True

    def _fields(self, stage: StagePlan, values: Values) -> bool:
        before = len(self.problems)
        for path, wire in written(self.plan, stage):
            try:
                values.get(wire)
            except KDError as error:
                self._report(path, error)
        return len(self.problems) == before

    def _term(self, plan: TermPlan, values: Values, batch: Batch) -> None:
        """Try a loss on values of the right shapes."""
        try:
            term = Term(plan, self.builder)
            real = Stand(values, batch)
            term(real, Clock(0, 10, 1))
        except KDError as error:
            self._report(plan.path, error)
        except Exception as error:  # a torch.nn loss says what it wants in its own way
            self._report(
                plan.path,
                KDError(f"the loss cannot take its inputs: {reason(error)}"),
            )

    def _report(self, path: Path, error: KDError) -> None:
        if isinstance(error, ConfigError):
            for problem in error.problems:
                self.problems.append(
                    problem if problem.mark else self.plan.document.problem(path, problem.message, problem.hint)
                )
        else:
            message, _, hint = str(error).partition("\n    hint: ")
            self.problems.append(self.plan.document.problem(path, message, hint or None))


def reason(error: Exception) -> str:
    """An error of someone else's code in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".rstrip(": ")


class Stand:
    """Values on the CPU in the place of those on the meta device: small random numbers of the same shapes."""

    def __init__(self, values: Values, batch: Batch) -> None:
        self._values, self._batch = values, batch

    def get(self, wired: Any) -> Any:
        """As :meth:`Values.get`; what comes from the batch is the batch's own."""
        if isinstance(wired, list):
            return [self.get(wire) for wire in wired]
        if wired.root == "batch":
            return Values({}, self._batch, Adapters({})).get(wired)
        return map_tensors(stand_in, self._values.get(wired))


def stand_in(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type with values."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype)


def written(plan: Plan, stage: StagePlan) -> Iterator[tuple[Path, Wire]]:
    """Every wire a stage uses with the place it is written in."""
    for term in stage.terms.values():
        for key, wired in term.wires.items():
            for wire in wired if isinstance(wired, list) else [wired]:
                yield (*term.path, key), wire
    for name in stage.adapters:
        adapter: AdapterPlan = plan.adapters[name]
        for wired in adapter.inputs:
            for wire in wired if isinstance(wired, list) else [wired]:
                yield (*adapter.path, "inputs"), wire
        if adapter.like:
            yield (*adapter.path, "like"), adapter.like


def calls_in(value: Any) -> Iterator[Call]:
    """Every call nested in a value."""
    if isinstance(value, Call):
        yield value
    if isinstance(value, Lazy):
        value = value.parts()
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from calls_in(item)


def model_taps(plan: Plan, policy: Policy, name: str) -> list[Row]:
    """The table of a model's modules, from made-up samples through the model without weights."""
    if name not in plan.models:
        raise KDError(f"there is no model {name!r} ({did_you_mean(name, list(plan.models))})")
    verifier = Verifier(plan, policy)
    source = ModelSource(
        verifier.builder, f"models.{name}", plan.dataset, verifier.num_classes, lambda _: None, structure=True
    )
    model = source.make(name, plan.models[name])
    batch = plan.task.prepare(plan.task.example(plan.data, PROBE), plan.inputs, plan.data)
    return module_table(model, batch.for_model(name), plan.task.call)
