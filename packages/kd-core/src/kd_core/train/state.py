"""What a checkpoint holds of a stage: everything that changes, so that a run goes on bit for bit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_core.device import shards
from kd_core.device.distributed import (
    all_gather_object,
    broadcast_buffers,
    rank,
    run_on_rank_zero,
    world_size,
)
from kd_core.device.fsdp import full_state_dict, load_full_optimizer_state, load_full_state_dict
from kd_core.device.seeding import derive, seed_everything
from kd_core.errors import KDError
from kd_core.runs.checkpoint import rng_state, set_rng_state
from kd_core.runs.stop import Stopped
from kd_core.train.components import Components
from kd_core.train.meter import LossMeter
from kd_core.train.progress import Progress, RunContext
from kd_core.train.stage import Stage

SYNC_EVERY = 10
"""Steps between two times that several processes ask each other whether to save or stop."""


class Checkpointing:
    """Saves a stage when it is due, and stops the run where a signal asks for it."""

    def __init__(self, context: RunContext, stage: Stage, meter: LossMeter) -> None:
        self.context, self.stage, self.meter = context, stage, meter
        self._saved = time.monotonic()

    def after_step(self) -> None:
        """Save where steps or minutes ask for it; save and raise Stopped where a signal does."""
        progress, limits = self.context.progress, self.context.components.plan.checkpoint
        late, signal = self._late_or_stopped(60 * limits.every_minutes)
        if signal or late or (limits.every_steps and progress.step % limits.every_steps == 0):
            self.save()
        if signal:
            position = f"step {progress.step} of stage {self.stage.plan.name!r}"
            raise Stopped(f"stopped and saved at {position}; go on with `resume {self.context.folder.path}`", signal)

    def _late_or_stopped(self, seconds: float) -> tuple[bool, int]:
        """Whether ``seconds`` went by since the last checkpoint, and the signal that asks to stop, 0 for none.

        Several processes must agree, which costs an exchange: they ask each other now and then.
        """
        late, signal = time.monotonic() - self._saved > seconds, self.context.stop.number
        if world_size() == 1:
            return late, signal
        if self.context.progress.step % SYNC_EVERY:
            return False, 0
        answers = all_gather_object((late, signal))
        return any(late for late, _ in answers), max(signal for _, signal in answers)

    def save(self) -> None:
        """Write a checkpoint; a step not yet known to be finite is checked first."""
        self.meter.check_finite()
        components = self.context.components
        broadcast_buffers(components.models[name] for name in components.changing())
        store, step = self.context.store, self.context.progress.total
        if components.plan.checkpoint.sharded:
            tensors: dict[str, Tensor] = {}
            state = shards.taken(stage_state(self.context, self.stage, self.meter, whole=False), tensors)
            if tensors:
                folder = run_on_rank_zero(lambda: store.shards_folder(step))
                shards.write(folder, tensors)
                state["shards"] = run_on_rank_zero(lambda: {"folder": folder.name, "files": shards.digests(folder)})
        else:
            state = stage_state(self.context, self.stage, self.meter)
        run_on_rank_zero(lambda: store.save(state, step))
        self._saved = time.monotonic()


def stage_state(context: RunContext, stage: Stage, meter: LossMeter, *, whole: bool = True) -> dict[str, Any]:
    """Everything needed to go on bit for bit; ``whole``: without a tensor of which a process has a part only.

    Every process must ask.
    """
    components = context.components
    state = {
        "progress": asdict(context.progress),
        "models": {name: components.models[name].state_dict() for name in components.changing()},
        "adapters": components.adapters.state_dict(),
        "losses": stage.objective.losses.state_dict(),
        "optimizer": stage.optimizer.state_dict(),
        "scheduler": stage.scheduler.state_dict() if stage.scheduler is not None else None,
        "ema": stage.ema.state_dict() if stage.ema is not None else None,
        "scaler": stage.runtime.scaler_state(),
        "rng": all_gather_object(rng_state()),
        "best": context.best,
        "meter": meter.state(),
        "metrics": context.folder.metrics.position(),
        "observers": context.observers.state_dict(),
        "run": context.identity,
    }
    return dict(full_state_dict(state)) if whole else state


def _like(stage: Stage, components: Components, place: str) -> Tensor:
    """The tensor of this stage that is spread as the one at a place of a checkpoint is; LookupError without one."""
    part, name = place.removeprefix("/").split("/", 1)
    if part == "optimizer":
        number = int(name.split("/")[1])
        parameters = [parameter for group in stage.optimizer.param_groups for parameter in group["params"]]
        like: Tensor = parameters[number].detach()
        return like
    if part == "models":
        model, name = name.split("/", 1)
        return components.models[model].state_dict()[name]
    modules = {"adapters": components.adapters, "losses": stage.objective.losses, "ema": stage.ema}
    found = modules[part]
    if found is None:
        raise KeyError(part)
    return found.state_dict()[name]


@contextmanager
def unfit_checkpoint_errors(path: Path) -> Iterator[None]:
    """KDError where the block finds something in the checkpoint ``path`` that this code or config does not expect."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = "\n".join(str(error).splitlines()[:2])  # torch names every weight that does not fit
        cause = f"it has no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {first}"
        message = f"the checkpoint {path} does not fit this run, another version or config wrote it: {cause}"
        raise KDError(message, hint="train anew in another folder") from error


def checked_progress(state: Mapping[str, Any], stages: int) -> Progress:
    """The place in a run of ``stages`` stages; ValueError, TypeError or LookupError where a checkpoint holds none.

    What is looked at again only after training, the best student and the place in the metrics, is checked with it.
    """
    progress, best = Progress(**state["progress"]), state["best"]
    counts = (progress.stage, progress.epoch, progress.batch, progress.step, progress.total, progress.wait_count)
    if not all(type(count) is int and count >= 0 for count in (*counts, state["metrics"]["size"])):
        raise ValueError("its place in the run is not whole numbers")
    if progress.stage >= stages:
        raise ValueError(f"it is of stage {progress.stage + 1} of {stages}")
    if not isinstance(progress.best, (float, int, type(None))) or not isinstance(progress.stopped, bool):
        raise ValueError("its best score is not a number")
    if not isinstance(state["rng"], list) or not state["rng"]:
        raise ValueError("it has no random states")
    if best is not None:
        numbers = (*best["metrics"].values(), best["stage"], best["epoch"])
        tensors = all(isinstance(value, Tensor) for value in best["student"].values())
        if not tensors or not all(isinstance(number, (int, float)) for number in numbers) or best["stage"] >= stages:
            raise ValueError("its best student is not one of this run")
    return progress


def load_stage_state(state: Mapping[str, Any], context: RunContext, stage: Stage, meter: LossMeter) -> None:
    """Go on where :func:`stage_state` was taken."""
    components = context.components
    if "shards" in state:
        folder = context.store.folder / state["shards"]["folder"]
        tensors = shards.read(folder, shards.marks(state), lambda place: _like(stage, components, place))
        state = shards.put(state, tensors)
    for name, weights in state["models"].items():
        load_full_state_dict(components.models[name], weights)
    load_full_state_dict(components.adapters, state["adapters"])
    load_full_state_dict(stage.objective.losses, state["losses"])
    load_full_optimizer_state(stage.optimizer, state["optimizer"])
    if stage.scheduler is not None:
        stage.scheduler.load_state_dict(state["scheduler"])
    if stage.ema is not None:
        stage.ema.load_state_dict(state["ema"])
    stage.runtime.load_scaler_state(state["scaler"])
    meter.load(state["meter"])
    context.observers.load_state_dict(state["observers"])
    context.best = state["best"]
    restore_rng(state["rng"], rank(), (components.plan.seed, "resumed", context.progress.total))


def restore_rng(states: Sequence[Mapping[str, Any]], number: int, names: tuple[str | int, ...]) -> None:
    """Go on with the random states of the process of that number; one that a checkpoint does not know gets its own.

    What such a process draws depends on ``names`` and its number alone, so that no two draw the same.
    """
    if number < len(states):
        set_rng_state(states[number])
    else:
        seed_everything(derive(*names, number))
