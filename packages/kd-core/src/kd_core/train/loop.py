"""The loop: one stage of a run, from its place in a checkpoint to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from kd_core.config import Builder
from kd_core.data.batch import STUDENT, Batch
from kd_core.device.distributed import (
    MicroBatchShard,
    all_gather_object,
    all_reduce_sum_,
    broadcast_buffers,
    divide,
    rank,
    run_on_rank_zero,
    world_size,
)
from kd_core.device.fsdp import full_state_dict, load_full_optimizer_state, load_full_state_dict, unsharded
from kd_core.device.seeding import derive, permutation, seeded
from kd_core.errors import KDError, did_you_mean
from kd_core.plan.plan import StagePlan
from kd_core.runs.checkpoint import rng_state, set_rng_state
from kd_core.runs.stop import Stopped
from kd_core.task import eval_batch_size
from kd_core.train.evaluate import format_metrics, score
from kd_core.train.objective import Objective, Step, StepInfo
from kd_core.train.optim import build_optimizer, build_scheduler
from kd_core.train.progress import RunContext
from kd_core.train.teacher_cache import cached_teachers
from kd_core.train.trainable import select, set_modes, wrap

SYNC_EVERY = 10
"""Steps between two times that several processes ask each other whether to save or stop."""


class StageRunner:
    """Trains one stage. Everything that changes is in :meth:`state`, and :meth:`load` puts it back bit for bit."""

    def __init__(self, session: RunContext, plan: StagePlan, before: Objective | None = None) -> None:
        self.session, self.plan, self.spec = session, plan, plan.spec
        self.world, self.progress, self.runtime = session.world, session.progress, session.world.runtime
        self.data, self.splits = self.world.data.get(plan.data)
        self.steps_per_epoch, self.total_steps = self.world.data.steps(plan)
        self.epochs = math.ceil(self.total_steps / self.steps_per_epoch)
        steps = {"steps": self.total_steps, "steps_per_epoch": self.steps_per_epoch}
        builder = Builder(self.world.policy, {**self.splits.info.run_values, **steps}, self.world.log)
        with seeded(derive(self.world.plan.seed, "losses", plan.index)):
            self.objective = Objective(plan.terms, self.world.adapters, builder, before).to(self.runtime.device)
        self.root, self.trained = select(self.world, plan, self.objective.losses)
        self.ema = self._average() if self.spec.ema else None
        self.recalled = cached_teachers(self.world, plan, self.trained)
        self.learning, self.frozen = wrap(self.world, plan, self.trained, self.recalled)
        self._optimise(builder)
        self._sums = torch.zeros(
            len(self.objective.names) + 1,
            device=self.runtime.device,
            dtype=torch.float64 if self.runtime.device.type != "mps" else torch.float32,
        )
        self._rows = 0
        self._pending: tuple[int, Tensor, Tensor] | None = None
        self._saved = time.monotonic()

    def _average(self) -> AveragedModel | None:
        if STUDENT not in self.trained:
            return None
        assert self.spec.ema is not None
        return AveragedModel(self.world.models[STUDENT], multi_avg_fn=get_ema_multi_avg_fn(self.spec.ema))

    def _optimise(self, builder: Builder) -> None:
        assert self.spec.optimizer is not None
        self.optimizer = build_optimizer(
            self.spec.optimizer,
            self.root,
            builder,
            dotted(self.plan.path("optimizer")),
            fused=self.runtime.spec.fused_optimizer,
        )
        self.scheduler, self.per = build_scheduler(
            self.spec.scheduler, self.optimizer, builder, dotted(self.plan.path("scheduler"))
        )
        if self.runtime.sharded and len(self.world.plan.stages) > 1:
            raise KDError("parameters are sharded (FSDP) for a whole run: it must have one stage")
        self.step_module, self.stepper = self.runtime.prepare(Step(self.learning, self.objective), self.optimizer)
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    # -- the loop

    def run(self) -> None:
        """Train from the place in ``progress`` to the end of the stage."""
        if self.progress.step == 0 and STUDENT in self.trained:
            self.progress.best, self.progress.waited, self.session.best = None, 0, None
        while self.progress.step < self.total_steps and not self.progress.stopped:
            started = time.monotonic()
            with self.session.reporter.epoch(
                self.plan.name, self.progress.epoch, self.epochs, self.steps_per_epoch, done=self.progress.batch
            ) as bar:
                for batch, shares in self._batches():
                    with self.runtime.compiled(usual=shares[0].total == self.spec.batch_size):
                        self._step(batch, shares)
                    bar.step(1, **self._shown())
                    self._between_steps()
                    if self.progress.stopped or self.progress.step >= self.total_steps:
                        break
            self._end_epoch(time.monotonic() - started)
        self.close()

    def _batches(self) -> Iterator[tuple[Batch, list[MicroBatchShard]]]:
        """The rest of the epoch, this process's rows. Modes are set here: an evaluation may have come between."""
        set_modes(self.learning, self.root)
        seed, stage, epoch = self.world.plan.seed, self.plan.index, self.progress.epoch
        assert self.spec.batch_size is not None
        order = permutation(len(self.splits.train), seed, "order", stage, epoch)
        unsharded = self.splits.train.arrange(order, self.spec.batch_size).split(self.spec.batch_size)
        own = [
            divide(each, self.spec.accumulation_steps) for each in unsharded[self.progress.batch : self.steps_per_epoch]
        ]
        rows = (torch.cat(positions) for positions, _ in own)
        batches = self.splits.train.batches(rows, epoch=epoch, seed=derive(seed, "augment", stage), augment=True)
        yield from zip(batches, (shares for _, shares in own), strict=True)

    def _step(self, raw: Batch, shares: list[MicroBatchShard]) -> None:
        """One optimiser step on one batch, in ``accumulation_steps`` micro-batches."""
        clock = StepInfo(self.progress.step, self.total_steps, self.steps_per_epoch)
        flags = torch.zeros_like(self._sums)
        self.stepper.zero_grad()
        for position, (part, share) in enumerate(
            zip(raw.to(self.runtime.device).split([share.local_rows for share in shares]), shares, strict=True)
        ):
            prepared = self.world.plan.task.prepare(part, self.world.plan.inputs, self.data, training=True)
            batch = self.runtime.format(self.plan.views(prepared))
            with self.runtime.autocast(), self.runtime.inference():
                teacher_outputs = {name: teacher(batch.for_model(name)) for name, teacher in self.frozen.items()}
                frozen = teacher_outputs | {name: recall(batch) for name, recall in self.recalled.items()}
            with self.runtime.no_sync(self.step_module, sync=position == len(shares) - 1):
                loss, values = self.step_module(batch, frozen, clock, share)
                self.runtime.backward(loss)
            flags += torch.cat([values, loss.detach().unsqueeze(0)])
        self.runtime.clip(self.parameters, self.spec.max_grad_norm, self.spec.max_grad_value)
        self.stepper.step()
        if self.ema is not None:
            with unsharded(self.step_module):
                self.ema.update_parameters(self.world.models[STUDENT])
        if self.scheduler is not None and self.per == "step":
            self.scheduler.step()
        flags = all_reduce_sum_(flags) / world_size()
        self._sums += flags * shares[0].total
        self._rows += shares[0].total
        self._check_finite()  # of the step before, whose values have arrived by now
        self._pending = (self.progress.step, raw.index, flags)
        self.progress.batch += 1
        self.progress.step += 1
        self.progress.total += 1

    def _check_finite(self) -> None:
        """KDError where the last unchecked step had a loss that is not a number or infinite."""
        if self._pending is None:
            return
        step, index, values = self._pending
        self._pending = None
        if not bool(torch.isfinite(values).all()):
            names = [
                name
                for name, value in zip([*self.objective.names, "the weighted sum"], values.tolist(), strict=True)
                if not math.isfinite(value)
            ]
            rows = ", ".join(str(row) for part in all_gather_object(index.tolist()) for row in part)
            message = f"step {step}: not finite: {', '.join(names)}\n    the batch's indices: {rows}"
            raise KDError(message, path=dotted(("stages", self.plan.name)))

    def _between_steps(self) -> None:
        """What is due after a step: a scoring, a checkpoint, a stop."""
        every = self.spec.validate.every_steps
        if every and self.progress.step % every == 0:
            self._score()
            set_modes(self.learning, self.root)
        limits = self.world.plan.checkpoint
        late, number = self._should_save_or_stop(60 * limits.every_minutes)
        if number or late or (limits.every_steps and self.progress.step % limits.every_steps == 0):
            self.save()
        if number:
            place = f"step {self.progress.step} of stage {self.plan.name!r}"
            hint = f"go on with `resume {self.session.folder.path}`"
            raise Stopped(f"stopped and saved at {place}; {hint}", number)

    def _should_save_or_stop(self, seconds: float) -> tuple[bool, int]:
        """Whether ``seconds`` went by since the last checkpoint, and the signal that asks to stop, if any.

        Several processes must agree, which costs an exchange: they ask each other now and then.
        """
        late, number = time.monotonic() - self._saved > seconds, self.session.stop.number
        if world_size() == 1:
            return late, number
        if self.progress.step % SYNC_EVERY:
            return False, 0
        answers = all_gather_object((late, number))
        return any(late for late, _ in answers), max(number for _, number in answers)

    def _shown(self) -> dict[str, float]:
        """The mean loss of the epoch so far, read from the device every ``log_every`` steps only."""
        if self.progress.step % self.world.plan.log_every:
            return {}
        return {"loss": float(self._sums[-1]) / max(self._rows, 1)}

    def _end_epoch(self, seconds: float) -> None:
        self._check_finite()
        self.progress.epoch += 1
        self.progress.batch = 0
        means = (self._sums / max(self._rows, 1)).tolist()
        rates = [group["lr"] for group in self.optimizer.param_groups]
        train = {"loss": means[-1], **dict(zip(self.objective.names, means, strict=False))}
        row = {
            "stage": self.plan.name,
            "epoch": self.progress.epoch,
            "step": self.progress.step,
            "lr": rates[0] if len(rates) == 1 else rates,
            "train": train,
            "seconds": round(seconds, 3),
        }
        self._sums.zero_()
        self._rows = 0
        self._record(row)
        self.session.reporter.info(
            f"{self.plan.name} {self.progress.epoch}/{self.epochs}: {format_metrics(train)} ({seconds:.1f} s)"
        )
        every = self.spec.validate.every_epochs
        last = self.progress.step >= self.total_steps
        value = self._score() if every and (self.progress.epoch % every == 0 or last) else None
        if self.scheduler is not None and self.per == "epoch":
            self._schedule(value)
        self.save()

    def _record(self, row: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        run_on_rank_zero(lambda: self.session.folder.metrics.append(row))

    def _schedule(self, value: float | None) -> None:
        if not isinstance(self.scheduler, ReduceLROnPlateau):
            assert self.scheduler is not None
            self.scheduler.step()
        elif value is not None:
            self.scheduler.step(value)

    # -- scoring

    def _score(self) -> float | None:
        """Score the student on the validation split, keep it if it is the best; the value that decides."""
        if self.splits.val is None or STUDENT not in self.trained:
            return None
        with unsharded(self.step_module):
            return self._scored()

    def _scored(self) -> float:
        assert self.splits.val is not None
        broadcast_buffers([self.averaged])
        metrics = self.score(self.averaged, self.splits.val)
        name, maximise = self._goal(metrics)
        value = metrics[name]
        self._record(
            {"stage": self.plan.name, "epoch": self.progress.epoch, "step": self.progress.step, "val": metrics}
        )
        gain = 0.0 if self.spec.early_stopping is None else self.spec.early_stopping.min_delta
        better = self._better(value, maximise, 0.0)
        waited = 0 if self._better(value, maximise, gain) else self.progress.waited + 1
        if better:
            self.progress.best = value
            self.session.best = self._keep(metrics)
        self.progress.waited = waited
        self.progress.stopped = self.spec.early_stopping is not None and waited >= self.spec.early_stopping.patience
        remark = " (best so far)" if better else "; stopping early" if self.progress.stopped else ""
        self.session.reporter.info(f"    validation: {format_metrics(metrics)}{remark}")
        return value

    def _keep(self, metrics: dict[str, float]) -> dict[str, Any]:
        """The student as it is now, also written as the best one."""
        kept = {"student": self.weights(), "metrics": metrics, "stage": self.plan.index, "epoch": self.progress.epoch}
        run_on_rank_zero(lambda: self.session.store.save_best(kept, self.progress.total))
        return kept

    def _better(self, value: float, maximise: bool, gain: float) -> bool:
        if not math.isfinite(value):
            return False
        best = self.progress.best
        return best is None or (value > best + gain if maximise else value < best - gain)

    def _goal(self, metrics: Mapping[str, float]) -> tuple[str, bool]:
        task, best = self.world.plan.task, self.spec.monitor
        name, maximise = (best.metric, best.mode == "max") if best else (task.monitor, task.mode == "max")
        if name not in metrics:
            path = dotted((*self.plan.path("monitor"), "metric"))
            raise KDError(f"there is no metric {name!r}", hint=did_you_mean(name, list(metrics)), path=path)
        return name, maximise

    def score(self, model: nn.Module, split: Any) -> dict[str, float]:
        """The metrics of a model in the student's place."""
        world = self.world
        return score(
            world.plan.task,
            model,
            STUDENT,
            split,
            spec=world.plan.inputs[STUDENT],
            data=self.data,
            info=self.splits.info,
            batch_size=eval_batch_size(world.plan.task, self.spec.eval_batch_size, self.spec.batch_size),
            runtime=self.runtime,
        )

    @property
    def averaged(self) -> nn.Module:
        """The student that counts: its moving average where there is one."""
        return self.ema.module if self.ema is not None else self.world.models[STUDENT]

    def weights(self) -> dict[str, Tensor]:
        """A copy of the student that counts, on the CPU."""
        return {key: value.detach().cpu().clone() for key, value in full_state_dict(self.averaged.state_dict()).items()}

    # -- state

    def state(self) -> dict[str, Any]:
        """Everything needed to go on bit for bit."""
        state = {
            "progress": asdict(self.progress),
            "models": {name: self.world.models[name].state_dict() for name in self.world.changing()},
            "adapters": self.world.adapters.state_dict(),
            "losses": self.objective.losses.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "scaler": self.runtime.scaler_state(),
            "rng": all_gather_object(rng_state()),
            "best": self.session.best,
            "sums": self._sums,
            "rows": self._rows,
            "metrics": self.session.folder.metrics.offset(),
        }
        return full_state_dict(state)

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was taken."""
        for name, weights in state["models"].items():
            load_full_state_dict(self.world.models[name], weights)
        load_full_state_dict(self.world.adapters, state["adapters"])
        load_full_state_dict(self.objective.losses, state["losses"])
        load_full_optimizer_state(self.optimizer, state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.runtime.load_scaler_state(state["scaler"])
        self._sums.copy_(state["sums"])
        self._rows = state["rows"]
        self.session.best = state["best"]
        set_rng_state(state["rng"][rank() % len(state["rng"])])

    def save(self) -> None:
        """Write a checkpoint; a step not yet known to be finite is checked first."""
        self._check_finite()
        broadcast_buffers(self.world.models[name] for name in self.world.changing())
        state = self.state()
        run_on_rank_zero(lambda: self.session.store.save(state, self.progress.total))
        self._saved = time.monotonic()

    def close(self) -> None:
        """Take the wrappers off the models, and let go of the last step's gradients."""
        self.stepper.zero_grad()
        for wrapper in (*self.learning.values(), *self.frozen.values()):
            wrapper.release()
        self.runtime.release()


def dotted(path: tuple[str | int, ...]) -> str:
    """A path as text."""
    return ".".join(map(str, path))
