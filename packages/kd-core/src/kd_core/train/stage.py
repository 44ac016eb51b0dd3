"""What a stage trains with, built: its objective, models with taps, optimiser, scheduler, and moving average."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from kd_core.config import Builder
from kd_core.data.batch import STUDENT, Batch, Split
from kd_core.data.partners import partner_split
from kd_core.device.distributed import MicroBatchShard, all_gather_object, world_size
from kd_core.device.fsdp import full_state_dict, unsharded
from kd_core.device.seeding import derive, seeded
from kd_core.errors import KDError, error_path, foreign_errors
from kd_core.plan.plan import StagePlan
from kd_core.plan.stages import accumulation_error
from kd_core.taps.pooled import pooled
from kd_core.taps.wrappers import Capture
from kd_core.task import Metrics, eval_batch_size
from kd_core.train.average import MovingAverage
from kd_core.train.combined import CombinedOptimizer
from kd_core.train.components import Components
from kd_core.train.dot import DOT, SeparateGradients, check_dot
from kd_core.train.evaluate import measured
from kd_core.train.objective import Objective, Step, StepInfo, Term
from kd_core.train.optim import build_optimizer, build_scheduler
from kd_core.train.probe import MORE, PROBE, TooFewSamples, batch_norm_errors, restored
from kd_core.train.sam import Closure, check_closure
from kd_core.train.teacher_cache import CachedTeacher, cached_names, cached_teacher
from kd_core.train.trainable import select, set_modes, wrap
from kd_core.train.values import Adapters


class Stage:
    """One stage of a run. ``previous`` is the objective of the stage before: a term that both have keeps its state."""

    def __init__(self, components: Components, plan: StagePlan, previous: Objective | None = None) -> None:
        self.components, self.plan, self.spec = components, plan, plan.spec
        self.runtime = components.runtime
        self.data, self.splits = components.data.get(plan.data)
        with error_path(*plan.path("partners")):
            self.partners = partner_split(self.spec.partners, self.splits.train)
        self.steps_per_epoch, self.total_steps = components.data.steps(plan)
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        numbers = {
            "steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "batch_size": self.spec.batch_size,
        }
        builder = Builder(components.policy, {**self.splits.info.run_values, **numbers}, components.log)
        with seeded(derive(components.plan.seed, "losses", plan.index)):
            objective = Objective(plan.terms, components.adapters, builder, previous, partial(components.probe, plan))
        self.objective = objective.to(self.runtime.device)
        check_accumulation(plan, self.objective.terms, components.adapters)
        check_parts(plan, self.objective.terms, world_size())
        components.frozen.remember(self.objective.losses)
        self.root, self.trained = select(components, plan, self.objective.losses)
        self.ema = self._average() if self.spec.ema else None
        named = cached_names(components, plan, self.trained) if components.caches else []
        self.learning, self.frozen = wrap(components, plan, self.trained)
        with self.runtime.autocast(), self.runtime.inference():
            self.cached: dict[str, CachedTeacher] = {
                name: cached_teacher(components, plan, self.frozen.pop(name)) for name in named
            }
        self._build_optimizer(builder)

    def _average(self) -> MovingAverage | None:
        if not self.trains_student:
            return None
        assert self.spec.ema is not None
        return MovingAverage(self.components.models[STUDENT], self.spec.ema)

    def _build_optimizer(self, builder: Builder) -> None:
        assert self.spec.optimizer is not None
        where, fused = dotted(self.plan.path("optimizer")), self.runtime.spec.fused_optimizer
        self.optimizer = build_optimizer(self.spec.optimizer, self.root, builder, where, fused=fused)
        where = dotted(self.plan.path("scheduler"))
        self.scheduler, self.interval = build_scheduler(self.spec.scheduler, self.optimizer, builder, where)
        if self.runtime.sharded and isinstance(self.optimizer, CombinedOptimizer):
            raise KDError("parameters are sharded (FSDP) for one optimizer, and a group has its own").at(
                *self.plan.path("optimizer")
            )
        if self.runtime.sharded and len(self.components.plan.stages) > 1:
            raise KDError("parameters are sharded (FSDP) for a whole run: it must have one stage")
        step = Step(self.learning, self.objective)
        unused = world_size() > 1 and not self.runtime.sharded and self._has_unused_parameters(step)
        self.step_module, self.stepper = self.runtime.prepare(step, self.optimizer, unused=unused)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        scaled = bool(self.runtime.scaler_state())
        check_dot(self.optimizer, self.plan, fp16=scaled, sharded=self.runtime.sharded)
        check_closure(self.optimizer, self.plan, fp16=scaled, sharded=self.runtime.sharded)
        self.separate: SeparateGradients | None = None
        if isinstance(self.optimizer, DOT):
            self.separate = SeparateGradients(self.optimizer, self.objective.names, self.parameters)
            self.runtime.keeps_graphs = True

    def teacher_outputs(self, batch: Batch, rows: Tensor | None = None) -> dict[str, Capture]:
        """What the frozen models give for a batch: run, or read from the cache.

        ``rows`` (B,) on the CPU are those of the samples in the data set; without them all models run.
        """
        with self.runtime.autocast(), self.runtime.inference():
            specs = self.components.plan.models
            given = {
                name: pooled(teacher(batch.for_model(name)), specs[name].pool, name)
                for name, teacher in self.frozen.items()
            }
            for name, cached in self.cached.items():
                given[name] = cached.live(batch) if rows is None else cached(batch, rows)
            return given

    def show_view(self, number: int) -> None:
        """Say in which of their views the next batches are."""
        for cached in self.cached.values():
            cached.view = number

    def _has_unused_parameters(self, step: Step) -> bool:
        """Whether a parameter that learns gets no gradient, for one, of a student of whom features are compared.

        Told by a step on a few samples, which leaves no trace, on every process the same ones.
        """
        with restored([self.root, step]):
            self.set_modes()
            for size in (PROBE, MORE):
                with suppress(TooFewSamples), batch_norm_errors(size):
                    return any(all_gather_object(self._unused(step, self.components.sample(self.plan, size))))
        return False

    def _unused(self, step: Step, batch: Batch) -> bool:
        rows, info = (len(batch),) * world_size(), StepInfo(0, self.total_steps, self.steps_per_epoch)
        frozen = self.teacher_outputs(batch)
        with self.runtime.autocast(), self.runtime.compiled(usual=False):
            loss, _ = step(batch, frozen, info, MicroBatchShard(rows, sum(rows)))
        parameters = [parameter for parameter in step.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else ()
        return any(gradient is None for gradient in gradients)

    @property
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """What learns, by its path."""
        return {name: item for name, item in self.root.named_parameters() if item.requires_grad}

    @property
    def trains_student(self) -> bool:
        """Whether something of the student learns: else it is neither scored nor kept."""
        return STUDENT in self.trained

    @property
    def averaged(self) -> nn.Module:
        """The student that counts: its moving average where there is one."""
        return self.ema.module if self.ema is not None else self.components.models[STUDENT]

    @property
    def candidates(self) -> dict[str, nn.Module]:
        """The student that counts, and the models that may take its place."""
        return {STUDENT: self.averaged, **{name: self.components.models[name] for name in self.plan.candidates}}

    @property
    def learning_rates(self) -> list[float]:
        """The learning rate of each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def weights(self, name: str = STUDENT) -> dict[str, Tensor]:
        """A copy of the student that counts, or of a candidate, on the CPU."""
        state = full_state_dict(self.candidates[name].state_dict())
        return {key: value.detach().cpu().clone() for key, value in state.items()}

    def set_modes(self) -> None:
        """Put what learns into training mode, all else into evaluation mode."""
        set_modes(self.learning, self.root)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a micro-batch's loss, or where the optimiser takes them apart, of the objective's terms."""
        if self.separate is None:
            self.runtime.backward(loss)
        else:
            self.separate.add(self.objective.weighted)

    def step(self, closure: Closure | None = None) -> None:
        """One step of the optimiser, with a ``closure`` if it takes one; adapters that count steps are told."""
        if self.separate is not None:
            self.separate.give()
        with foreign_errors(f"a step of {type(self.optimizer).__name__}", *self.plan.path("optimizer")):
            self.stepper.step(*([] if closure is None else [closure]))  # type: ignore[arg-type]
        self.components.adapters.after_step(self.plan.adapters)

    def update_average(self) -> None:
        """Add the student as it is now to its moving average, where there is one."""
        if self.ema is not None:
            with unsharded(self.step_module):
                self.ema.update(self.components.models[STUDENT])

    def schedule(self, interval: str, value: float | None = None) -> None:
        """Step the scheduler where its interval is this one; a plateau scheduler follows the monitored ``value``."""
        if self.scheduler is None or self.interval != interval:
            return
        with foreign_errors(f"a step of {type(self.scheduler).__name__}", *self.plan.path("scheduler")):
            if not isinstance(self.scheduler, ReduceLROnPlateau):
                self.scheduler.step()
            elif value is not None:
                self.scheduler.step(value)

    def measured(self, models: Mapping[str, nn.Module], split: Split) -> dict[str, Metrics]:
        """The metrics of models in the student's place, ready to be computed; samples are read once for all."""
        plan = self.components.plan
        return measured(
            plan.task,
            models,
            STUDENT,
            split,
            spec=plan.inputs[STUDENT],
            data=self.data,
            info=self.splits.info,
            batch_size=eval_batch_size(plan.task, self.spec.eval_batch_size, self.spec.batch_size),
            runtime=self.runtime,
        )

    def close(self) -> None:
        """Take the wrappers off the models, and let go of the last step's gradients."""
        self.stepper.zero_grad()
        for wrapper in (*self.learning.values(), *self.frozen.values()):
            wrapper.release()
        self.components.adapters.release(self.plan.adapters)
        if self.partners is not self.splits.train:
            self.partners.close()
        for cached in self.cached.values():
            cached.release()
        self.runtime.release()


def check_accumulation(plan: StagePlan, terms: Iterable[Term], adapters: Adapters) -> None:
    """KDError where a built loss or adapter must see whole batches, and the stage cuts them into micro-batches."""
    if plan.spec.accumulation_steps == 1:
        return
    relating = [f"the loss {term.plan.name!r}" for term in terms if term.over_batch]
    relating += [f"the adapter {name!r}" for name in plan.adapters if adapters.over_batch(name)]
    if relating:
        raise accumulation_error(relating[0]).at(*plan.path("accumulation_steps"))


def check_parts(plan: StagePlan, terms: Iterable[Term], processes: int) -> None:
    """KDError where the values of a built loss on parts of a batch do not add up, and the stage cuts it into some."""
    if plan.spec.accumulation_steps == 1 and processes == 1:
        return
    for term in terms:
        if term.inexact is not None:
            raise term.inexact.at(*term.plan.path)


def dotted(path: tuple[str | int, ...]) -> str:
    """A path as text."""
    return ".".join(map(str, path))
