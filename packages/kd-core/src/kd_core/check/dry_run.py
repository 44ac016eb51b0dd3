"""What a check puts in the place of data, and what it may not try."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.config import Call, Lazy, Policy
from kd_core.config.schema import Path
from kd_core.data.batch import Batch
from kd_core.errors import KDError
from kd_core.plan.plan import AdapterPlan, Plan, StagePlan, TermPlan, Wired
from kd_core.taps.nested import map_tensors
from kd_core.taps.wires import Wire, field_names
from kd_core.train.trainable import FrozenWhenBuilt
from kd_core.train.values import Adapters, Values, WireResolver

META = torch.device("meta")
MOST = 1 << 28
"""Numbers in a dummy tensor at most: a width of a billion would take the machine's memory."""


@dataclass(frozen=True)
class DryRunComponents:
    """What training selects from."""

    plan: Plan
    models: Mapping[str, nn.Module]
    adapters: Adapters
    frozen: FrozenWhenBuilt


class DummyValues:
    """Values on the CPU in the place of those on the meta device: small random numbers of the same shapes."""

    def __init__(self, values: Values, batch: Batch, dummy: Callable[[Tensor], Tensor] | None = None) -> None:
        self._values, self._batch, self._dummy = values, batch, dummy or dummy_like

    def signed(self) -> DummyValues:
        """The same with values of both signs."""
        return DummyValues(self._values, self._batch, lambda tensor: dummy_like(tensor) * 4 - 2)

    def get(self, wired: Wired) -> Any:
        """As :meth:`WireResolver.get`; what comes from the batch is the batch's own."""
        if isinstance(wired, list):
            return [self.get(wire) for wire in wired]
        if wired.root == "batch":
            return WireResolver({}, self._batch, Adapters({})).get(wired)
        return map_tensors(self._dummy, self._values.get(wired))


def dummy_like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type with values; KDError where it has more than :data:`MOST`."""
    if tensor.numel() > MOST:
        raise KDError(f"a few samples give {tuple(tensor.shape)}: {tensor.numel():,} numbers are too many")
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor.dtype)


def trusted_only(value: Any) -> str | None:
    """Why something is not built in a check, or None: only ``--trust`` lets it be called."""
    policy = Policy()
    for call in calls_in(value):
        try:
            policy.check_call_allowed(policy.locate(call.target), target=call.target)
        except KDError:
            return f"{call.target} is built in training only, for it is not a known package's"
    return None


def calls_in(value: Any) -> Iterator[Call]:
    """Every call nested in a value."""
    if isinstance(value, Call):
        yield value
    if isinstance(value, Lazy):
        value = value.parts()
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ():
        yield from calls_in(item)


def needs_values(error: Exception) -> bool:
    """Whether something failed only because tensors on the meta device hold no values."""
    return isinstance(error, NotImplementedError) or "meta" in str(error)


def to_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same shape without values."""
    return tensor.to(META)


def written(plan: Plan, stage: StagePlan) -> Iterator[tuple[Path, Wire]]:
    """Every wire a stage uses with the place it is written in."""
    for term in stage.terms.values():
        for key, wired in term.wires.items():
            for wire in wired if isinstance(wired, list) else [wired]:
                yield (*term.path, key), wire
    for name in stage.adapters:
        adapter: AdapterPlan = plan.adapters[name]
        names = list(adapter.inputs) if isinstance(adapter.inputs, Mapping) else None
        for position, wired in enumerate(adapter.wired):
            suffix = () if names is None else (names[position],)
            for wire in wired if isinstance(wired, list) else [wired]:
                yield (*adapter.path, "inputs", *suffix), wire
        for wire in adapter.matches:
            yield (*adapter.path, "match"), wire


def tapped(plan: Plan, stage: StagePlan) -> Iterator[tuple[Path, Wire]]:
    """Every place of a model that an adapter of a stage reads where it runs it, with the place it is written in."""
    for name in stage.adapters:
        adapter = plan.adapters[name]
        for key, wire in adapter.taps.items():
            yield (*adapter.path, "taps", key), wire


def field_hint(plan: TermPlan, stand: DummyValues) -> str | None:
    """A hint where a wire of a loss leads to named tensors, of which one was meant."""
    for key, wired in plan.wires.items():
        value = stand.get(wired)
        if isinstance(wired, Wire) and (names := field_names(value)):
            return f"write `{key}: {wired}/FIELD`, FIELD being one of {', '.join(names)}"
    return None
