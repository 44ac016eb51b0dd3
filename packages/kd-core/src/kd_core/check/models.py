"""The models of a plan as a check builds them: without weights, on the meta device, or with random ones on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.check.dry_run import META, needs_values, trusted_only
from kd_core.check.findings import Findings
from kd_core.config import Builder, Policy, has_call
from kd_core.config.schema import ModelSpec
from kd_core.data.batch import STUDENT, Batch, DatasetInfo
from kd_core.errors import KDError, Unverified, reason
from kd_core.models.factory import ModelSource, student_spec
from kd_core.models.siblings import Siblings
from kd_core.plan.plan import Plan
from kd_core.taps.inference import know_landmarks
from kd_core.taps.landmarks import Landmarks, declared, keep
from kd_core.taps.nested import map_tensors
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import Capture
from kd_core.train.probe import PROBE, forward, probe_model, restored


class DryModels:
    """Builds the models of a plan without weights; a model that cannot be built is not in :attr:`built`."""

    def __init__(
        self,
        plan: Plan,
        policy: Policy,
        findings: Findings,
        classes: int | None = None,
        known: DatasetInfo | None = None,
    ) -> None:
        self.plan, self.policy, self.findings = plan, policy, findings
        self.sound = sound = plan.task is not None and plan.data is not None
        dummy = plan.task.dummy_info(plan.data, classes) if sound else DatasetInfo()
        told = dummy if classes is not None else plan.task.info(plan.data) if sound else DatasetInfo()
        self.info = told if known is None else known
        self.widths: dict[int, None] = {}
        """The classes that models other than the student tell apart, if their outputs are of classes."""
        self.run_values = dummy.run_values
        guesses = {**dummy.model_parameters, **self.info.model_parameters}
        self.hub_info = replace(self.info, model_parameters=guesses)
        """For a hub's models, which are made for the data's classes: as many for all where only reading would tell."""
        self.built: dict[str, nn.Module] = {}
        self._real: dict[str, nn.Module] = {}
        self._samples: Batch | None = None
        self._siblings = Siblings(list(plan.models), self._built, self._probe)
        self._real_siblings = Siblings(list(plan.models), self.real, self._probe)

    def build(self) -> None:
        """Build all models, and report what is wrong with one."""
        for name in self.plan.models:
            if (model := self._model(name)) is not None:
                self.built[name] = model

    def _probe(self, name: str, model: nn.Module, taps: Sequence[Tap]) -> Mapping[Tap, Any]:
        """What a model gives at its taps for dummy samples, where it lies itself."""
        if not self.sound:
            raise Unverified("an edit is made from what other models give, and the data are not known")
        if self._samples is None:
            with torch.device("cpu"):
                data = self.with_calls_built(self.plan.data)
                raw = self.plan.task.dummy_batch(data, PROBE, training=True)
                self._samples = self.plan.task.prepare(raw, self.plan.inputs, data, training=True)
        on_meta = any(parameter.is_meta for parameter in model.parameters())
        return probe_model(self.plan, name, model, taps, self._samples.to(META) if on_meta else self._samples)

    def with_calls_built(self, data: Any) -> Any:
        """Data with the calls built that the task tries; KDError where one fails, Unverified for what is not called."""
        calls = {key: value for key in self.plan.task.tried if has_call(value := getattr(data, key, None))}
        if (why := trusted_only(calls)) is not None:
            raise Unverified(why)
        builder = Builder(self.policy, {})
        built = {key: builder.build(value, path=f"data.{key}") for key, value in calls.items()}
        return data.model_copy(update=built) if built else data

    def _model(self, name: str) -> nn.Module | None:
        try:
            model = self._siblings[name]
            if self.sound and name in self.plan.inputs:
                self.plan.task.check_structure(model, self.plan.inputs[name], self.plan.data)
            if self.sound and name == STUDENT:
                self.plan.task.check_student(model, self.info, self.plan.data)
            return model
        except Unverified as error:
            self.findings.cannot_verify(("models", name), error)
        except KDError as error:
            self.findings.report(("models", name), error)
        except Exception as error:  # a constructor may raise anything
            self.findings.report(("models", name), KDError(f"it cannot be built: {reason(error)}"))
        return None

    def _built(self, name: str) -> nn.Module:
        """On the meta device, else, where a constructor reads values, on the CPU and then moved."""
        if (why := self._not_to_build(self.plan.models[name])) is not None:
            raise Unverified(why)
        try:
            with META:
                return self.fresh(name).to(META)
        except Exception as error:
            if not needs_values(error):
                raise
            return copy.deepcopy(self.fresh(name)).to(META)  # what it shares with another model stays there

    def _light(self, model: nn.Module) -> nn.Module:
        """``model``, as cheap to run as its task can make it."""
        if self.sound:
            self.plan.task.lighten(model)
        return model

    def fresh(self, name: str) -> nn.Module:
        """A new model like the one of that name, wherever tensors are made now."""
        return self._light(self.source(name).make(name, self.plan.models[name]))

    def source(self, name: str) -> ModelSource:
        """How a model is made without weights, beside others where tensors are made now."""
        builder = Builder(self.policy, self.run_values)  # its own: it keeps what it builds, and where that is
        path = f"models.{name}"
        hubs = self.plan.task.hubs if self.plan.task is not None else {}
        spec = self.plan.models[name]
        info = self.info if "hub" not in hubs or (spec.hub is None and spec.run is None) else self.hub_info
        siblings = self._siblings if torch.get_default_device() == META else self._real_siblings
        return ModelSource(
            builder, path, self.plan.dataset, info, lambda _: None, structure=True, hubs=hubs, siblings=siblings
        )

    def _not_to_build(self, spec: ModelSpec) -> str | None:
        """Why a model is not built in a check, or None."""
        if spec.run is not None:
            try:
                return self._not_to_build(student_spec(FilePath(spec.run)))
            except KDError as error:
                return str(error)
        return trusted_only([spec.call, spec.extra, spec.edit])

    def forward(self, name: str, taps: list[Tap], batch: Batch) -> Capture:
        """What a model gives at some taps, on the meta device."""
        capture = forward(name, self.built[name], taps, self.plan, batch.to(META))
        if name != STUDENT:
            map_tensors(self._note_width, capture.output)
        return capture

    def know_landmarks(self, name: str, batch: Batch) -> None:
        """Find the landmarks of a model that does not tell them, by a pass on the meta device, else on the CPU."""
        try:
            self._infer(self.built[name], name, batch.to(META))
        except Exception as error:
            if not needs_values(error):
                raise
            real = self.real(name)
            self._infer(real, name, batch)
            keep(self.built[name], declared(real) or Landmarks())

    def _infer(self, model: nn.Module, name: str, batch: Batch) -> None:
        with restored([model]):
            know_landmarks(model.eval(), self.plan.task.call, batch.for_model(name))

    def _note_width(self, output: Tensor) -> Tensor:
        if output.ndim > 1:
            self.widths[output.shape[1]] = None
        return output

    def real_forward(self, name: str, taps: list[Tap], batch: Batch) -> Capture:
        """The same with random weights on the CPU, whose errors say what is wrong."""
        return forward(name, self.real(name), taps, self.plan, batch)

    def real(self, name: str) -> nn.Module:
        """The model with random weights on the CPU, in the mode of the one on the meta device."""
        if name not in self._real:
            self._real[name] = self.fresh(name)
        real, built = self._real[name], self.built.get(name)
        if built is None:
            return real
        if (landmarks := declared(built)) is not None:
            keep(real, landmarks)
        for part, twin in zip(real.modules(), built.modules(), strict=True):
            part.training = twin.training
        return real
