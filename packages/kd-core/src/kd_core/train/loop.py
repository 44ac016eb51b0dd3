"""The loop: one stage of a run, from its place in a checkpoint to its end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_core.data.batch import STUDENT, Batch, Split
from kd_core.data.partners import partner_rows, prepared, with_partners
from kd_core.data.showings import marked, positions_of
from kd_core.data.spec import augmented_views
from kd_core.device.distributed import MicroBatchShard, epoch_batches
from kd_core.device.runtime import reproducible_errors
from kd_core.device.seeding import derive, permutation
from kd_core.device.transfer import on_device
from kd_core.errors import error_path
from kd_core.observers import EpochEvent, StepEvent
from kd_core.plan.plan import StagePlan
from kd_core.train.doubts import check_parameters
from kd_core.train.meter import LossMeter
from kd_core.train.objective import Objective, StepInfo
from kd_core.train.observers import TermGradients
from kd_core.train.probe import batch_norm_errors
from kd_core.train.progress import RunContext
from kd_core.train.reevaluation import MicroBatch, Reevaluation
from kd_core.train.sam import needs_closure
from kd_core.train.sampling import epoch_order
from kd_core.train.stage import Stage
from kd_core.train.state import Checkpointing, load_stage_state, unfit_checkpoint_errors
from kd_core.train.validation import Validation

SHARED_SEED = 0
"""The seed of the augmentations that all runs share."""


class StageRunner:
    """Trains one stage of a run. Everything that changes lies in a checkpoint (:mod:`kd_core.train.state`)."""

    def __init__(self, context: RunContext, plan: StagePlan, previous: Objective | None = None) -> None:
        self.context, self.plan, self.spec = context, plan, plan.spec
        self.progress, self.observers = context.progress, context.observers
        self.stage = Stage(context.components, plan, previous)
        self.runtime = self.stage.runtime
        self.meter = LossMeter(plan.name, self.stage.objective.names, self.runtime.device)
        self.validation = Validation(context, self.stage)
        self.checkpointing = Checkpointing(context, self.stage, self.meter)
        self._loaded: Path | None = None  # until the epoch ends
        self._step_began = 0.0

    def load(self, state: Mapping[str, Any], path: Path) -> None:
        """Go on where the checkpoint ``path`` was written; KDError where its state does not fit this stage."""
        self._loaded = path
        with self._unfit_errors():
            load_stage_state(state, self.context, self.stage, self.meter)

    def _unfit_errors(self) -> AbstractContextManager[None]:
        """KDError where what a checkpoint had for optimisers, averages or schedulers turns out to be unfit."""
        return nullcontext() if self._loaded is None else unfit_checkpoint_errors(self._loaded)

    def run(self) -> None:
        """Train from the place in ``progress`` to the end of the stage. An epoch that was begun is always ended."""
        if self.progress.step == 0 and self.stage.trains_student:
            self.progress.best, self.progress.wait_count, self.context.best = None, 0, None
        if self.stage.scheduler is None and not any(self.stage.learning_rates):
            self.context.warn(f"stages.{self.plan.name}: the learning rate is 0: nothing is learned")
        while self.progress.batch or self._steps_left():
            started = time.monotonic()
            self._step_began = time.monotonic()
            for (raw, batch), shards in self._batches():
                with self.runtime.compiled(usual=shards[0].total == self.spec.batch_size), reproducible_errors():
                    self._step(raw, batch, shards)
                self.validation.after_step()
                self.checkpointing.after_step()
                self._step_began = time.monotonic()
                if self.progress.stopped:
                    break
            self._end_epoch(time.monotonic() - started)
        self._doubts()
        self.stage.close()

    def try_steps(self) -> Iterator[float]:
        """Train step by step, as often as the caller asks and the stage has steps: nothing is scored, saved or stopped.

        Gives the seconds that each step waited for its batch.
        """
        while self._steps_left():
            asked = time.monotonic()
            for (raw, batch), shards in self._batches():
                waited = time.monotonic() - asked
                with self.runtime.compiled(usual=shards[0].total == self.spec.batch_size), reproducible_errors():
                    self._step(raw, batch, shards)
                yield waited
                asked = time.monotonic()
            self.progress.epoch, self.progress.batch = self.progress.epoch + 1, 0
            self.meter.reset()

    def _doubts(self) -> None:
        """Say, and note in the run, where the stage has probably learned nothing."""
        value = self.meter.constant()
        if value is not None:
            self.context.warn(f"stages.{self.plan.name}: the loss was {value:.6g} in every step: nothing was learned")

    def _steps_left(self) -> int:
        """Steps until the end of the stage; 0 where early stopping ended it."""
        return 0 if self.progress.stopped else self.stage.total_steps - self.progress.step

    def _batches(self) -> Iterator[tuple[tuple[Batch, Batch], list[MicroBatchShard]]]:
        """The rest of the epoch, this process's rows, each batch as it was read and on the device.

        Modes are set here: a validation may have come between.
        """
        self.stage.set_modes()
        seed, train = self.context.components.plan.seed, self.stage.splits.train
        assert self.spec.batch_size is not None
        end = min(self.stage.steps_per_epoch, self.progress.batch + self._steps_left())
        cut = partial(
            epoch_batches,
            train.arrange(self._order(seed, train), self.spec.batch_size),
            self.spec.batch_size,
            accumulate=self.spec.accumulation_steps,
            first=self.progress.batch,
            stop=end,
        )
        # Batches are read ahead of those that train: each reader cuts them itself, for `tee` would hold 57 of them.
        batches = self._shown(train, (torch.cat(parts) for parts, _ in cut()), "augment")
        if self.spec.partners is not None:
            batches = self._partnered(batches, (torch.cat(parts) for parts, _ in cut()))
        yield from zip(on_device(batches, self.runtime.device), (shards for _, shards in cut()), strict=True)

    def _order(self, seed: int, train: Split) -> Tensor:
        """The positions of this epoch, in the order in which they are shown."""
        names = (seed, "order", self.plan.index, self.progress.epoch)
        sampler = self.spec.sampling
        if sampler is None:
            return permutation(len(train), *names)
        with error_path(*self.plan.path("sampler")):
            order = epoch_order(sampler, train, *names)
        shared = augmented_views(self.stage.data) is not None  # of which an epoch shows one of each sample
        return order if train.marks and not shared else positions_of(order)

    def _shown(self, split: Split, rows: Iterable[Tensor], purpose: str) -> Iterator[Batch]:
        """The samples as this epoch shows them: augmented anew, or in one of the views that all runs share."""
        seed, epoch, views = self.context.components.plan.seed, self.progress.epoch, augmented_views(self.stage.data)
        view, drawn = epoch, derive(seed, purpose, self.plan.index)
        if views is not None:
            view, drawn = epoch % views, SHARED_SEED if purpose == "augment" else derive(SHARED_SEED, purpose)
        if views is not None and not split.fixed:
            self.stage.show_view(view)
        return split.batches(rows, epoch=view, seed=drawn, augment=True)

    def _partnered(self, batches: Iterator[Batch], rows: Iterable[Tensor]) -> Iterator[Batch]:
        """The batches with the partners of their samples beside them, which are augmented by draws of their own."""
        seed, epoch, kind = self.context.components.plan.seed, self.progress.epoch, self.spec.partners
        assert kind is not None
        with error_path(*self.plan.path("partners")):
            drawn = partner_rows(kind, self.stage.splits.train, derive(seed, "partners", self.plan.index, epoch))
        beside = self._shown(
            self.stage.partners, (marked(drawn[positions_of(row)], row) for row in rows), "augment partners"
        )
        for batch, others in zip(batches, beside, strict=True):
            yield with_partners(batch, others.inputs)

    def _step(self, raw: Batch, batch: Batch, shards: list[MicroBatchShard]) -> None:
        """One optimiser step on one batch, ``raw`` as it was read, in ``accumulation_steps`` micro-batches.

        On a GPU the host waits for nothing here, but where an optimiser, a loss or a model of its own reads a number.
        """
        self.runtime.begin_step()
        stage, info = self.stage, StepInfo(self.progress.step, self.stage.total_steps, self.stage.steps_per_epoch)
        gradients = self._term_gradients(info.step)
        again = Reevaluation(stage.step_module) if needs_closure(stage.optimizer) else None
        micro_batches = self._with_teachers(raw, batch, shards)
        losses, norm = self._evaluate(micro_batches if again is None else again.kept(micro_batches), info, gradients)
        closure = None if again is None else again.closure(losses[-1], partial(self._evaluate, info=info))
        rates = stage.learning_rates
        with self._unfit_errors():
            stage.step(closure)
            stage.update_average()
            stage.schedule("step")
        losses = self.meter.add(info.step, losses, raw.index, shards[0].total)
        self._advance(
            values=losses,
            weights=stage.objective.weights(info),
            learning_rates=rates,
            samples=shards[0].total,
            grad_norm=norm,
            gradients={} if gradients is None else gradients.mean(),
        )

    def _evaluate(
        self, micro_batches: Iterable[MicroBatch], info: StepInfo, gradients: TermGradients | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The losses of a batch and their gradients, clipped, which take the place of those before; their norm."""
        stage, losses = self.stage, self.meter.zeros()
        stage.stepper.zero_grad()
        for batch, frozen, shard, shares, last in micro_batches:
            sync = last and stage.separate is None
            with (
                batch_norm_errors(shard.local_rows, self.plan.name),
                self.runtime.no_sync(stage.step_module, sync=sync),
            ):
                loss, terms = stage.step_module(batch, frozen, info, shard, shares)
                if gradients is not None:
                    gradients.add(stage.objective.weighted)
                stage.backward(loss)
            losses += torch.cat([terms, loss.detach().unsqueeze(0)])
        return losses, self.runtime.clip(stage.parameters, self.spec.max_grad_norm, self.spec.max_grad_value)

    def _with_teachers(self, raw: Batch, batch: Batch, shards: list[MicroBatchShard]) -> Iterator[MicroBatch]:
        """Each micro-batch with what the frozen models give for it."""
        indices = raw.index.split([shard.local_rows for shard in shards])
        for position, (part, shard, shares) in enumerate(self._micro_batches(batch, shards)):
            frozen = self.stage.teacher_outputs(part, indices[position])
            yield MicroBatch(part, frozen, shard, shares, position == len(shards) - 1)

    def _term_gradients(self, step: int) -> TermGradients | None:
        """Where the gradients of single terms are kept, None where no observer wants those of this step."""
        with_gradients = self.observers.wants_gradients(step)
        self.stage.objective.keeps_graphs = with_gradients or self.stage.separate is not None
        return TermGradients(self.stage.objective.names, self.stage.parameters) if with_gradients else None

    def _micro_batches(
        self, batch: Batch, shards: list[MicroBatchShard]
    ) -> Iterator[tuple[Batch, MicroBatchShard, Mapping[str, Tensor]]]:
        """Each micro-batch as the models take it, and what it counts in the batch.

        All are prepared first where a loss divides by something that must be counted in the whole batch.
        """
        micro_batches = batch.split([shard.local_rows for shard in shards])
        batches: Iterable[Batch] = map(self._prepared, micro_batches)
        shares: list[dict[str, Tensor]] = [{} for _ in shards]
        if self.stage.objective.counts:
            batches = list(batches)
            shares = self.stage.objective.shares(batches, shards)
        return zip(batches, shards, shares, strict=True)

    def _prepared(self, raw: Batch) -> Batch:
        """A micro-batch as the models take it, in the stage's views."""
        plan = self.context.components.plan

        def prepare(batch: Batch) -> Batch:
            return plan.task.prepare(batch, plan.inputs, self.stage.data, training=True)

        return self.runtime.format(self.plan.views(prepared(raw, prepare, STUDENT)))

    def _advance(self, **seen: Any) -> None:
        """Count the step, and show it to the observers with what was ``seen`` in it."""
        self.progress.batch += 1
        self.progress.step += 1
        self.progress.total += 1
        self.observers.after_step(
            StepEvent(
                stage=self.plan.name,
                epoch=self.progress.epoch,
                epochs=self.stage.epochs,
                batch=self.progress.batch,
                steps_per_epoch=self.stage.steps_per_epoch,
                step=self.progress.step,
                steps=self.stage.total_steps,
                total=self.progress.total,
                names=self.meter.names,
                seconds=time.monotonic() - self._step_began,
                mean_loss=self.meter.mean_loss,
                **seen,
            )
        )

    def _end_epoch(self, seconds: float) -> None:
        """The means of the epoch, a validation where it is due, the scheduler, a checkpoint."""
        self.meter.check_finite()
        check_parameters(self.stage.named_parameters, self.plan.name, self.progress.step - 1)
        self.progress.epoch += 1
        self.progress.batch = 0
        means, rates = self.meter.means(), self.stage.learning_rates
        self.meter.reset()
        progress = self.progress
        self.observers.after_epoch(
            EpochEvent(self.plan.name, progress.epoch, self.stage.epochs, progress.step, means, rates, seconds)
        )
        value = self.validation.after_epoch()
        with self._unfit_errors():
            self.stage.schedule("epoch", value)
        self._loaded = None
        self.checkpointing.save()
