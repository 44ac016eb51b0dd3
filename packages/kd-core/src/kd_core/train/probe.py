"""The probe: what a stage looks at, run once on a few samples, from which adapters and losses learn their widths."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kd_core.config import Builder
from kd_core.data.batch import Batch
from kd_core.device.seeding import derive, seeded
from kd_core.errors import KDError, error_path, foreign_errors
from kd_core.plan.plan import Plan, StagePlan
from kd_core.runs.checkpoint import rng_state, set_rng_state
from kd_core.taps.inference import know_landmarks
from kd_core.taps.pooled import pooled
from kd_core.taps.wires import Tap, describe_shapes
from kd_core.taps.wrappers import Capture, ForwardWrapper
from kd_core.train.values import Adapters, WireResolver

PROBE = 2
"""Samples in the probe batch."""
MORE = 8
"""Samples where batch norm, in training mode, has too few values on those."""


class TooFewSamples(KDError):
    """Batch norm in training mode has one value a channel, of which it has no variance."""


@contextmanager
def batch_norm_errors(samples: int, stage: str | None = None) -> Iterator[None]:
    """Inside, torch's complaint of one value a channel is TooFewSamples, with the ``samples`` of the batch."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel when training"):
            raise
        batch = f"a batch of {samples} samples" if samples != 1 else "a batch of one sample"
        hint = "`drop_last: true`, where the last batch of an epoch is too small, a larger batch_size, or larger inputs"
        message = f"batch norm in training mode has one value a channel on {batch}"
        raise TooFewSamples(message, hint=hint, path=f"stages.{stage}" if stage else "") from error


class Snapshot:
    """The modes, buffers and extra states of modules and all random states, as they are now."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        parts = list({part: None for module in modules for part in module.modules()})
        self._modes = [(part, part.training) for part in parts]
        self._buffers = [
            (part, name, buffer, buffer.clone())
            for part in parts
            for name, buffer in part._buffers.items()
            if buffer is not None and not is_lazy(buffer)
        ]
        counted = [part for part in parts if type(part).get_extra_state is not nn.Module.get_extra_state]
        self._states = [(part, deepcopy(part.get_extra_state())) for part in counted]
        self._random = rng_state()

    def restore(self) -> None:
        """Put everything back."""
        set_rng_state(self._random)
        for part, mode in self._modes:
            part.training = mode
        for part, state in self._states:
            part.set_extra_state(deepcopy(state))
        with torch.no_grad():
            for part, name, buffer, saved in self._buffers:
                part._buffers[name] = buffer.copy_(saved)


@contextmanager
def restored(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, modules may run; afterwards their modes, buffers and extra states and all random states are as before."""
    snapshot = Snapshot(modules)
    try:
        yield
    finally:
        snapshot.restore()


def forward(name: str, model: nn.Module, taps: Iterable[Tap], plan: Plan, batch: Batch) -> Capture:
    """One pass of a model, in the mode it is in, without gradients or a trace in it; maps as losses see them."""
    with restored([model]), torch.no_grad():
        wrapper = ForwardWrapper(model, taps, name=name, call=plan.task.call)
        try:
            with batch_norm_errors(len(batch)):
                return pooled(wrapper(batch.for_model(name)), plan.models[name].pool, name)
        finally:
            wrapper.release()


def probe_model(plan: Plan, name: str, model: nn.Module, taps: Iterable[Tap], batch: Batch) -> Mapping[Tap, Any]:
    """What a model gives at its taps in evaluation mode, its landmarks found before; it is afterwards as it was."""
    with restored([model]), foreign_errors("the forward pass", "models", name):
        know_landmarks(model.eval(), plan.task.call, batch.for_model(name))
        return forward(name, model, taps, plan, batch).at


def probe(
    plan: Plan,
    stage: StagePlan,
    models: Mapping[str, nn.Module],
    adapters: Adapters,
    sample: Callable[[int], Batch],
    set_mode: Callable[[str], None],
    builder: Builder,
    samples: int | None = None,
) -> WireResolver:
    """What all wires of a stage carry for a few samples; its adapters that are not there yet are built from it.

    ``sample`` gives so many training samples, ``set_mode`` puts a model into the mode it has in the stage, which is the
    mode it runs in here. Models, adapters and random states are afterwards as they were. Unless ``samples`` says how
    many, more are taken where a few are too few for batch norm.
    """
    with restored([*models.values(), adapters]):
        try:
            return _probed(plan, stage, models, adapters, sample(samples or PROBE), set_mode, builder)
        except TooFewSamples:
            if samples is not None:
                raise
            with error_path("stages", stage.name):
                return _probed(plan, stage, models, adapters, sample(MORE), set_mode, builder)


def _probed(
    plan: Plan,
    stage: StagePlan,
    models: Mapping[str, nn.Module],
    adapters: Adapters,
    batch: Batch,
    set_mode: Callable[[str], None],
    builder: Builder,
) -> WireResolver:
    captures = {}
    for name in plan.by_landmark(stage):
        with restored([models[name]]), foreign_errors("the forward pass", "models", name):
            know_landmarks(models[name].eval(), plan.task.call, batch.for_model(name))
    for name, taps in plan.taps(stage).items():
        set_mode(name)
        if not taps:  # only adapters run it
            captures[name] = Capture(None, {})
            continue
        shapes = describe_shapes(batch.for_model(name))
        with foreign_errors(f"the forward pass on training samples of shape {shapes}", "models", name):
            captures[name] = forward(name, models[name], taps, plan, batch)
    values = WireResolver(captures, batch, adapters)
    with torch.no_grad(), batch_norm_errors(len(batch)):
        for name in stage.adapters:
            with seeded(derive(plan.seed, "adapter", name)):
                adapters.build(name, values, models, builder)
            adapters.to(batch.index.device)
            adapters.try_out(name, values)
    return values
