"""What a stage minimises: weighted terms over wires, the adapters that feed them, and all their state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.config import Builder, Lazy
from kd_core.config.schedules import Schedule
from kd_core.data.batch import Batch
from kd_core.device.distributed import SINGLE_PROCESS, MicroBatchShard, gather
from kd_core.errors import KDError
from kd_core.plan.plan import AdapterPlan, TermPlan, Wired
from kd_core.taps.nested import map_tensors
from kd_core.taps.wires import Wire, pick
from kd_core.taps.wrappers import Capture, module_at


@dataclass(frozen=True)
class StepInfo:
    """The place in a stage, which weights and temperatures follow."""

    step: int
    total_steps: int
    steps_per_epoch: int

    def at(self, value: float | Schedule) -> float:
        """A number, or what a schedule says now."""
        return (
            value(self.step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch)
            if callable(value)
            else value
        )


class WireResolver:
    """What wires carry in one step. Adapters run when first asked for, once."""

    def __init__(self, captures: Mapping[str, Capture], batch: Batch, adapters: Adapters) -> None:
        self._captures = captures
        self._batch = batch
        self._adapters = adapters
        self._computed: dict[str, Any] = {}
        self.device = batch.index.device.type

    def get(self, wired: Wired) -> Any:
        """The value of a wire, or of each wire of a list."""
        return [self._one(wire) for wire in wired] if isinstance(wired, list) else self._one(wired)

    def _one(self, wire: Wire) -> Any:
        if wire.root == "adapters":
            value = self._adapted(wire.path)
        elif wire.root == "batch":
            value = self._from_batch(wire.path)
        else:
            assert wire.tap is not None
            value = self._captures[wire.root].at[wire.tap]
        found = pick(value, wire.fields)
        if found is None:
            hint = "attention maps need a model with `attn_implementation: eager`"
            raise KDError(f"{wire} is None: the module returned None there", hint=hint)
        return found

    def _adapted(self, name: str) -> Any:
        if name not in self._computed:
            self._computed[name] = self._adapters.run(name, self)
        return self._computed[name]

    def _from_batch(self, name: str) -> Any:
        if name in ("target", "index"):
            return getattr(self._batch, name)
        if name not in self._batch.extra:
            raise KDError(
                f"the batch has no {name!r}; it has: target, index{''.join(', ' + key for key in self._batch.extra)}"
            )
        return self._batch.extra[name]


class Adapters(nn.Module):
    """The run's adapters by name. Borrowed modules stay their model's: they are called, not owned."""

    def __init__(self, plans: Mapping[str, AdapterPlan]) -> None:
        super().__init__()
        self._plans = dict(plans)
        self._borrowed: dict[str, nn.Module] = {}

    def run(self, name: str, values: WireResolver) -> Any:
        """The output of one adapter for the inputs of this step."""
        module = self._borrowed[name] if name in self._borrowed else self._modules[name]
        assert module is not None
        return module(*(values.get(wired) for wired in self._plans[name].inputs))

    def build(self, name: str, values: WireResolver, models: Mapping[str, nn.Module], builder: Builder) -> None:
        """Make an adapter whose widths come from a probe batch's ``values``; a second call changes nothing."""
        plan = self._plans[name]
        if name in self._modules or name in self._borrowed:
            return
        if plan.borrowed is not None:
            assert plan.borrowed.tap is not None
            self._borrowed[name] = module_at(models[plan.borrowed.root], plan.borrowed.tap.path)
            return
        self.add_module(name, self._made(plan, values, builder))

    def _made(self, plan: AdapterPlan, values: WireResolver, builder: Builder) -> nn.Module:
        if isinstance(plan.builder, Lazy):
            module = builder.build(plan.builder, path=".".join((*map(str, plan.path), "module")))
            if not isinstance(module, nn.Module):
                raise KDError(f"{type(module).__name__} is not a torch.nn.Module", path="module")
            return module
        assert plan.builder is not None
        inputs = [values.get(wired) for wired in plan.inputs]
        match = values.get(plan.match) if plan.match else None
        made: nn.Module = plan.builder(inputs, match, plan.spec.out_features, **plan.values)
        return made


class Term(nn.Module):
    """One weighted loss. A loss with parameters or state is a module, and its state is the term's."""

    def __init__(self, plan: TermPlan, builder: Builder) -> None:
        super().__init__()
        self.plan = plan
        self.module: nn.Module | None = None
        self._hyperparameters: dict[str, Any] = {}
        self.over_batch: bool = getattr(plan.loss, "over_batch", False)
        where = ".".join(map(str, plan.path))
        if isinstance(plan.loss, Lazy):
            self.module = builder.build(plan.loss, path=f"{where}.loss")
        elif isinstance(plan.loss, type):
            self.module = plan.loss(**builder.build(dict(plan.values), path=where))
        else:
            self._hyperparameters = builder.build(dict(plan.values), path=where)

    def forward(self, values: WireResolver, clock: StepInfo, share: MicroBatchShard = SINGLE_PROCESS) -> Tensor:
        """The unweighted loss of a step, a float32 scalar."""
        inputs = {key: self._input(key, values.get(wired)) for key, wired in self.plan.wires.items()}
        if self.over_batch:
            inputs = gather(inputs, share.rows)
        if self.module is not None:
            loss = self.module(**inputs)
        else:
            now = {key: clock.at(schedule) for key, schedule in self.plan.schedules.items()}
            loss = self.plan.loss(**inputs, **self._hyperparameters, **now)  # type: ignore[operator]
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise KDError(f"the loss returned {describe(loss)}, not one number (set its reduction to 'mean')")
        return loss

    def _input(self, key: str, value: Any) -> Any:
        return map_tensors(detached_float if key in self.plan.detach else as_float, value)


class Objective(nn.Module):
    """The weighted sum of a stage's terms. A term that a stage takes over from the one before keeps its state."""

    def __init__(
        self, plans: Mapping[str, TermPlan], adapters: Adapters, builder: Builder, before: Objective | None = None
    ) -> None:
        super().__init__()
        self.adapters = adapters
        kept = {} if before is None else {term.plan.name: term for term in before.terms if term.plan in plans.values()}
        self.terms: list[Term] = [kept.get(name) or Term(plan, builder) for name, plan in plans.items()]
        self.names = list(plans)
        self.keeps_graphs = False
        self.weighted: list[Tensor] = []
        """The weighted losses of the last pass with their graphs, while ``keeps_graphs`` is set."""
        self.losses = nn.Module()
        for name, term in zip(self.names, self.terms, strict=True):
            self.losses.add_module(name, term)

    def forward(
        self, captures: Mapping[str, Capture], batch: Batch, clock: StepInfo, share: MicroBatchShard = SINGLE_PROCESS
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum, a scalar with a graph, and the unweighted terms (T,) without one.

        Each counts what this micro-batch's ``share`` says: a loss over pairs of samples sees those of all processes.
        """
        values = WireResolver(captures, batch, self.adapters)
        losses = []
        for term in self.terms:
            factor = share.global_scale if term.over_batch else share.local_scale
            loss = self._value(term, values, clock, share)
            losses.append(loss * factor if factor != 1 else loss)
        weighted = [loss * clock.at(term.plan.weight) for term, loss in zip(self.terms, losses, strict=True)]
        self.weighted = weighted if self.keeps_graphs else []
        total = sum(weighted)
        assert isinstance(total, Tensor)
        return total, torch.stack([loss.detach() for loss in losses])

    def _value(self, term: Term, values: WireResolver, clock: StepInfo, share: MicroBatchShard) -> Tensor:
        """One loss: its adapters run under the models' precision, the loss itself in float32."""
        try:
            for wired in term.plan.wires.values():
                values.get(wired)
            with torch.autocast(values.device, enabled=False):
                loss: Tensor = term(values, clock, share)
        except KDError as error:
            raise error.at(*term.plan.path) from None
        return loss


def as_float(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32, all others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def detached_float(tensor: Tensor) -> Tensor:
    """The same without a graph."""
    return as_float(tensor.detach())


def describe(value: Any) -> str:
    """A value by its type and shape."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


class Step(nn.Module):
    """Everything trainable of a step in one module, so that one DDP or FSDP wrapper sees it all."""

    def __init__(self, models: Mapping[str, nn.Module], objective: Objective) -> None:
        super().__init__()
        self.models = nn.ModuleDict(dict(models))
        self.objective = objective

    def forward(
        self, batch: Batch, frozen: Mapping[str, Capture], clock: StepInfo, share: MicroBatchShard
    ) -> tuple[Tensor, Tensor]:
        """Run the trained models and the objective on one micro-batch."""
        captures = {name: model(batch.for_model(name)) for name, model in self.models.items()}
        return self.objective({**frozen, **captures}, batch, clock, share)
