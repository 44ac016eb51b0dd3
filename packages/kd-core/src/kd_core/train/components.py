"""Everything an experiment is made of, built once: data, models, adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from kd_core.config import Builder, Call, Policy, has_call
from kd_core.config.schema import ModelSpec
from kd_core.data.batch import STUDENT, Batch, DatasetInfo, Splits
from kd_core.data.partners import with_partners
from kd_core.data.spec import augmented_views
from kd_core.device.distributed import divide, main_first, run_on_rank_zero
from kd_core.device.runtime import Runtime
from kd_core.device.seeding import derive, seeded
from kd_core.errors import ConfigError, error_path
from kd_core.models.factory import ModelSource
from kd_core.models.siblings import Siblings
from kd_core.models.trained_on import check_class_names, preprocessing_warning
from kd_core.notes import Note
from kd_core.plan.plan import Plan, StagePlan
from kd_core.runs.progress import Reporter
from kd_core.taps.wires import Tap
from kd_core.task import check_model, check_student
from kd_core.train.candidates import unfit
from kd_core.train.domain import check_domain
from kd_core.train.evaluate import check_gatherable
from kd_core.train.probe import PROBE, probe, probe_model
from kd_core.train.sampling import check_views, epoch_length
from kd_core.train.trainable import FrozenWhenBuilt, set_stage_mode
from kd_core.train.values import Adapters, WireResolver

OUTPUT = Tap("")
"""A model's output: for a classifier, its classes."""


ORDER_SAMPLES = 64
"""Training samples, from all over the split, by whose labels the order of a teacher's outputs is judged."""


class Data:
    """The data of an experiment, each ``data:`` value read once, and told of once."""

    def __init__(
        self, plan: Plan, policy: Policy, reporter: Reporter, *, whole: bool = False, scored: bool = False
    ) -> None:
        """Read with ``plan``; ``whole``: every file from end to end before anything else, however many there are.

        ``scored``: only the split that a finished student is scored on is looked at.
        """
        self._plan, self._policy, self._reporter, self._whole = plan, policy, reporter, whole
        self._scored = scored
        self._read: list[tuple[Any, Any, Splits]] = []

    def get(self, spec: Any) -> tuple[Any, Splits]:
        """A ``data:`` value with its calls built, and its splits."""
        for read_spec, built, splits in self._read:
            if read_spec is spec or read_spec == spec:
                return built, splits
        built = build_fields(spec, Builder(self._policy, {}, self._reporter.debug))
        with main_first():
            splits = self._plan.task.load(built, seed=self._plan.seed, inputs=self._plan.inputs)
            splits = splits.scored() if self._scored else splits
        run_on_rank_zero(lambda: self._screen(splits))
        self._read.append((spec, built, splits))
        for line in () if self._reporter.silent else splits.describe():
            self._reporter.info(f"data: {line}")
        return built, splits

    def _screen(self, splits: Splits) -> None:
        """KDError where files cannot be read, all of them named, or the data are not fit to train on."""
        splits.screen(whole=self._whole)
        if not self._scored:
            self._plan.task.check_splits(splits)

    def close(self) -> None:
        """End what reads samples."""
        for _, _, splits in self._read:
            splits.close()

    def steps(self, stage: StagePlan) -> tuple[int, int]:
        """Steps per epoch and in all of a stage."""
        return stage.steps(self.samples(stage))

    def samples(self, stage: StagePlan) -> int:
        """How many samples an epoch of a stage shows; KDError where its sampler does not go with the data."""
        data, splits = self.get(stage.data)
        sampler = stage.spec.sampling
        if sampler is None:
            return len(splits.train)
        with error_path(*stage.path("sampler")):
            check_views(sampler, augmented_views(data))
            return epoch_length(sampler, splits.train)

    def micro_batches(self, stage: StagePlan) -> set[int]:
        """How many samples this process's micro-batches of a stage have."""
        size, samples = stage.spec.batch_size, self.samples(stage)
        per_epoch, steps = self.steps(stage)
        assert size is not None
        sizes = {min(size, samples)}
        if samples % size and not stage.spec.drop_last and steps >= per_epoch:
            sizes.add(samples % size)
        parts = [divide(torch.arange(number), stage.spec.accumulation_steps)[0] for number in sizes]
        return {len(rows) for part in parts for rows in part}


class Components:
    """The built experiment. Each model's initial weights depend on (seed, name) alone; the student's are those
    of ``torch.manual_seed(seed)`` followed by its constructor."""

    caches = True
    """Whether models with ``cache`` keep what they give; where not, they run, and give the same values."""

    def __init__(self, plan: Plan, policy: Policy, runtime: Runtime, data: Data, reporter: Reporter) -> None:
        self.plan, self.policy, self.runtime, self.data, self.log = plan, policy, runtime, data, reporter.debug
        spec, first = data.get(plan.data)
        builder = Builder(policy, first.info.run_values, self.log)
        self._reporter, self.said = reporter, list[str]()
        """Warnings about models, which were said when these were built."""
        self.edits: dict[str, list[dict[str, Any]]] = {}
        """The edits of models, without what they read of other models."""
        models = self._build_models(builder, first.info)
        self._check_trained_on(self._say)
        for name, model in models.items():
            check_model(plan.task, name, model, plan.inputs[name], spec)
        check_student(plan.task, models[STUDENT], first.info, spec)
        if problems := [problem for stage in plan.stages for problem in unfit(plan, stage, models)]:
            raise ConfigError(problems)
        self.models = {name: runtime.place(model, name) for name, model in models.items()}
        self._check_orders()
        self.frozen = FrozenWhenBuilt()
        for model in self.models.values():
            self.frozen.remember(model)
        self.adapters, self._builder = Adapters(plan.adapters, self._fresh, plan.task.call).to(runtime.device), builder
        self.doubts: list[str] = []
        """What is doubtful about the targets of losses, as far as a few samples tell."""
        for stage in plan.stages:
            self._check_targets(stage, self.probe(stage))
            self._try_one_sample(stage)
        runtime.place(self.adapters)
        self.frozen.remember(self.adapters)
        self._check_scoring()

    def _say(self, note: Note) -> None:
        self._reporter.note(note)
        if note.is_warning:
            self.said.append(note.text)

    def _build_models(self, builder: Builder, info: DatasetInfo) -> dict[str, nn.Module]:
        """Every model of the plan; one that the edits of another read is made before it."""
        plan = self.plan

        def make(name: str) -> nn.Module:
            source = ModelSource(
                builder,
                f"models.{name}",
                plan.dataset,
                info,
                self._say,
                hubs=plan.task.hubs,
                siblings=siblings,
                edits=self.edits,
            )
            with seeded(plan.seed if name == STUDENT else derive(plan.seed, "model", name)):
                return source.make(name, plan.models[name])

        siblings = Siblings(list(plan.models), make, self._probe_model)
        return {name: siblings[name] for name in plan.models}

    def _probe_model(self, name: str, model: nn.Module, taps: Sequence[Tap]) -> Mapping[Tap, Any]:
        """What a model gives at its taps for a few training samples, where it was built; its landmarks are found."""
        spec, splits = self.data.get(self.plan.data)
        raw = next(
            iter(splits.train.batches([torch.arange(min(PROBE, len(splits.train)))], epoch=0, seed=0, augment=False))
        )
        return probe_model(
            self.plan, name, model, taps, self.plan.task.prepare(raw, self.plan.inputs, spec, training=True)
        )

    def _fresh(self, name: str) -> nn.Module:
        """A new model like the one of that name, with random weights."""
        info, hubs = self.data.get(self.plan.data)[1].info, self.plan.task.hubs
        builder = Builder(self.policy, info.run_values, self.log)  # its own: a builder keeps what it has built
        source = ModelSource(
            builder, f"models.{name}", self.plan.dataset, info, lambda _: None, structure=True, hubs=hubs
        )
        return source.make(name, self.spec(name))

    def spec(self, name: str) -> ModelSpec:
        """The spec of a model, by which it is made without the others."""
        spec = self.plan.models[name]
        return spec.model_copy(update={"edit": self.edits[name]}) if name in self.edits else spec

    def _check_orders(self) -> None:
        """KDError where a teacher that does not name its outputs has them in another order than the data's classes."""
        task, changing = self.plan.task, self.changing()
        for name, model in self.models.items():
            if name in changing or not task.assumes_order(model):
                continue
            spec, splits = self.data.get(self.plan.data)
            positions = torch.linspace(0, len(splits.train) - 1, min(ORDER_SAMPLES, len(splits.train))).long()
            raw = next(iter(splits.train.batches([positions], epoch=0, seed=0, augment=False)))
            batch = task.prepare(raw.to(self.runtime.device), self.plan.inputs, spec, training=False)
            with torch.no_grad(), error_path("models", name):
                task.check_order(task.call(model.eval(), batch.for_model(name)), batch, splits.info)

    def _check_trained_on(self, log: Callable[[Note], None]) -> None:
        """KDError where a model whose outputs count was trained on other classes than the data have."""
        warnings: dict[Note | None, None] = {}
        for stage in self.plan.stages:
            data, splits = self.data.get(stage.data)
            for name, spec in self.plan.models.items():
                path = f"models.{name}"
                if name == STUDENT or name in self.plan.outputs_read(stage):
                    warnings[check_class_names(spec, splits.info, path)] = None
                warnings[preprocessing_warning(spec, self.plan.task.preprocessing(data), path)] = None
        for warning in filter(None, warnings):
            log(warning)

    def _check_scoring(self) -> None:
        """KDError where several processes could not score the student."""
        for spec in (stage.data for stage in self.plan.stages):
            data, splits = self.data.get(spec)
            split = splits.val if splits.val is not None else splits.test
            if split is not None:
                check_gatherable(
                    self.plan.task,
                    self.models[STUDENT],
                    STUDENT,
                    split,
                    spec=self.plan.inputs[STUDENT],
                    data=data,
                    info=splits.info,
                    runtime=self.runtime,
                )

    def _check_targets(self, stage: StagePlan, values: WireResolver) -> None:
        """KDError where a loss of torch would take for probabilities what are none; keep what may be wrong."""
        builder = Builder(self.policy, self.data.get(stage.data)[1].info.run_values, self.log)
        for term in stage.terms.values():
            if not isinstance(term.loss, Call) or not term.loss.target.startswith("torch.nn."):
                continue
            with error_path(*term.path), suppress(ConfigError):  # what needs the stage's steps is built later
                module = builder.build(term.loss, path="loss")
                inputs = {key: values.get(wired) for key, wired in term.wires.items()}
                if (doubt := check_domain(module, inputs)) is not None:
                    self.doubts.append(f"{'.'.join(map(str, term.path))}: {doubt}")

    def _try_one_sample(self, stage: StagePlan) -> None:
        """KDError where a micro-batch of a stage will have one sample, and batch norm does not take that."""
        if 1 not in self.data.micro_batches(stage):
            return
        with error_path("stages", stage.name):
            self.probe(stage, samples=1)

    def probe(self, stage: StagePlan, samples: int | None = None) -> WireResolver:
        """What the wires of a stage carry for a few samples, on which adapters that are missing yet are built."""
        return probe(
            self.plan,
            stage,
            self.models,
            self.adapters,
            lambda size: self.sample(stage, size),
            lambda name: set_stage_mode(self, stage, name),
            self._builder,
            samples,
        )

    def sample(self, stage: StagePlan, size: int) -> Batch:
        """The first training samples, as the models take them in training."""
        spec, splits = self.data.get(stage.data)
        positions = torch.arange(min(size, len(splits.train)))
        raw = next(iter(splits.train.batches([positions], epoch=0, seed=0, augment=False)))
        batch = self.plan.task.prepare(raw.to(self.runtime.device), self.plan.inputs, spec, training=True)
        if stage.spec.partners is not None:
            batch = with_partners(batch, batch.for_model(STUDENT))
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
                or any(fnmatch(name, pattern) for pattern in patterns)
            )

        return [name for name in self.models if changes(name)]


def build_fields(spec: BaseModel, builder: Builder) -> BaseModel:
    """A shaped value with the calls in its fields built."""
    built = {key: builder.build(value, path=f"data.{key}") for key, value in dict(spec).items() if has_call(value)}
    return spec.model_copy(update=built)
