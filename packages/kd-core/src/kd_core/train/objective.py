"""What a stage minimises: weighted terms over wires, and all their state."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.config import Builder, Lazy
from kd_core.config.schedules import Schedule
from kd_core.data.batch import Batch
from kd_core.device.distributed import SINGLE_PROCESS, MicroBatchShard, all_reduce_sum_, rank, world_size
from kd_core.errors import KDError, foreign_errors
from kd_core.losses.reduction import check_shapes, count_of
from kd_core.plan.plan import TermPlan
from kd_core.plan.stages import counted_wires
from kd_core.signatures import FROM_INPUTS, single_tensors
from kd_core.taps.nested import map_tensors
from kd_core.taps.wires import Tap, Wire, describe_shapes, field_names
from kd_core.taps.wrappers import Capture
from kd_core.train.domain import check_domain
from kd_core.train.lazy import has_lazy, materialize
from kd_core.train.values import Adapters, Values, WireResolver, gathered, levels, on_cpu, unzipped

INDEX = Wire("batch", "index")
"""The rows of a batch in the data set."""


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


class Term(nn.Module):
    """One weighted loss. A loss with parameters or state is a module, and its state is the term's.

    ``probe`` gives what wires carry for a few samples: a loss with a class method ``from_inputs`` is built from it, and
    lazy layers get their shapes. It is asked only where one of the two is there.
    """

    def __init__(self, plan: TermPlan, builder: Builder, probe: Callable[[], Values] | None = None) -> None:
        super().__init__()
        self.plan = plan
        self.module: nn.Module | None = None
        self._hyperparameters: dict[str, Any] = {}
        where = ".".join(map(str, plan.path))
        self.function: Any = plan.loss
        if isinstance(plan.loss, Lazy):
            self.function = builder.build(plan.loss, path=f"{where}.loss")
            self.module = self.function if isinstance(self.function, nn.Module) else None
        elif isinstance(plan.loss, type):
            hyperparameters = builder.build(dict(plan.values), path=where)
            from_inputs = getattr(plan.loss, FROM_INPUTS, None)
            if from_inputs is not None and probe is not None:
                self.module = from_inputs(self._probed(probe), **hyperparameters)
            else:
                self.module = plan.loss(**hyperparameters)
        else:
            self._hyperparameters = builder.build(dict(plan.values), path=where)
        self.count = count_of(self.function if self.module is None else self.module)
        self.counted = counted_wires(self.count, plan)
        """The inputs and hyperparameters that tell what the loss divides by; None where it must see a whole batch."""
        self.inexact: KDError | None = None
        """Why the loss may not see parts of a batch, as far as the probe tells."""
        self._single = single_tensors(self.function) if callable(self.function) else frozenset()

    @property
    def over_batch(self) -> bool:
        """Whether the loss relates the samples of a batch, and is given those of all processes."""
        return self.counted is None

    def divisor(self, values: Values) -> Tensor | None:
        """What the loss divides by on a batch of which ``values`` has the parts; None: by its number of samples."""
        if self.counted is None or self.count is None:
            return None
        known = {name: values.get(self.plan.wires[name]) for name in self.counted if name in self.plan.wires}
        known |= {name: self._hyperparameters[name] for name in self.counted if name in self._hyperparameters}
        return self.count(**known)

    def materialize(self, probe: Callable[[], Values]) -> None:
        """Give lazy layers their shapes, and see whether the loss adds up over parts of a batch.

        KDError where the loss fails on the probe batch.
        """
        if self.module is not None and has_lazy(self.module):
            materialize(self.module, **self._probed(probe))
        if (check := getattr(self.function, "refused_in_parts", None)) is not None:
            samples = len(probe().get(INDEX))
            self.inexact = check(samples, **self._probed(probe), **self._hyperparameters)

    def _probed(self, probe: Callable[[], Values]) -> dict[str, Any]:
        """The probe's inputs, on the CPU, where the initial values of every loss are drawn."""
        values = probe()
        inputs = {key: self._input(key, values.get(wired)) for key, wired in self.plan.wires.items()}
        return {key: map_tensors(on_cpu, value) for key, value in inputs.items()}

    def foreign_errors(self) -> AbstractContextManager[None]:
        """Inside, whatever a loss of someone else's raises is a KDError."""
        if isinstance(self.plan.loss, Lazy):
            return foreign_errors(getattr(self.plan.loss, "target", "the loss"))
        return nullcontext()

    def check_domain(self, values: Values) -> str | None:
        """KDError where a loss of torch would take for probabilities what are none; a sentence where it may be."""
        inputs = {key: values.get(wired) for key, wired in self.plan.wires.items()}
        return check_domain(self.module, inputs)

    def forward(self, values: Values, step_info: StepInfo, shard: MicroBatchShard | None = None) -> Tensor:
        """The unweighted loss of a step, a float32 scalar."""
        carried = {key: values.get(wired) for key, wired in self.plan.wires.items()}
        inputs = {key: self._input(key, value) for key, value in carried.items()}
        if self.over_batch and shard is not None:
            inputs = {key: gathered(self.plan.wires[key], value, shard) for key, value in inputs.items()}
        now = {key: step_info.at(schedule) for key, schedule in self.plan.schedules.items()}
        if lists := self._lists(carried):
            return self._added(inputs, lists, now)
        return self._loss(inputs, now)

    def _lists(self, inputs: Mapping[str, Any]) -> list[str]:
        """The inputs that are lists where the loss takes one tensor; KDError for one that is neither.

        A model that returns several tensors gives no list of things to compare: which of them is meant is not known.
        """
        lists = []
        for key, value in inputs.items():
            if key not in self._single or value is None or isinstance(value, Tensor):
                continue
            wired = self.plan.wires[key]
            whole = isinstance(wired, Wire) and wired.tap == Tap("") and not wired.fields
            if whole or levels(value) is None:
                there = [f"{wired}/{field}" for field in field_names(value)]
                message = f"{wired} carries {describe_shapes(value)}, of which the loss takes one tensor"
                raise KDError(message, path=key, hint=f"choose one of: {', '.join(there)}" if there else None)
            lists.append(key)
        return lists

    def _added(self, inputs: Mapping[str, Any], lists: Sequence[str], now: Mapping[str, float]) -> Tensor:
        """The sum of the losses of the items of lists, where the loss itself takes one tensor."""
        if self.module is not None and next(self.module.parameters(), next(self.module.buffers(), None)) is not None:
            raise KDError(f"{lists[0]} is a list, and a loss with parameters takes one tensor", path=lists[0])
        items = unzipped({key: inputs[key] for key in lists})
        losses = [self._loss({**inputs, **item}, now) for item in items]
        return torch.stack(losses).sum()

    def _loss(self, inputs: Mapping[str, Any], now: Mapping[str, float]) -> Tensor:
        if isinstance(self.plan.loss, Lazy):
            check_shapes(self.function, inputs)
        if self.module is not None:
            loss = self.module(**inputs)
        else:
            loss = self.function(**inputs, **self._hyperparameters, **now)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise KDError(f"the loss returned {describe_loss(loss)}, not one number (set its reduction to 'mean')")
        return loss

    def _input(self, key: str, value: Any) -> Any:
        kept = getattr(self.function, "takes_half", False)
        if key in self.plan.detach:
            return map_tensors(Tensor.detach if kept else detached_float, value)
        return value if kept else map_tensors(as_float, value)


class Objective(nn.Module):
    """The weighted sum of a stage's terms. A term that a stage takes over from the one before keeps its state.

    ``probe`` runs what the stage looks at on a few samples, for losses whose shapes depend on their inputs.
    """

    def __init__(
        self,
        plans: Mapping[str, TermPlan],
        adapters: Adapters,
        builder: Builder,
        previous: Objective | None = None,
        probe: Callable[[], Values] | None = None,
    ) -> None:
        super().__init__()
        self.adapters = adapters
        existing = (
            {} if previous is None else {term.plan.name: term for term in previous.terms if term.plan in plans.values()}
        )
        probe = None if probe is None else functools.cache(probe)
        self.terms: list[Term] = [existing.get(name) or _built(plan, builder, probe) for name, plan in plans.items()]
        for term in self.terms:
            if probe is not None:
                with _errors_at(term.plan):
                    term.materialize(probe)
        self.names = list(plans)
        self.keeps_graphs = False
        self.weighted: list[Tensor] = []
        """The weighted losses of the last pass with their graphs, while ``keeps_graphs`` is set."""
        self.losses = nn.Module()
        for name, term in zip(self.names, self.terms, strict=True):
            self.losses.add_module(name, term)

    def forward(
        self,
        captures: Mapping[str, Capture],
        batch: Batch,
        step_info: StepInfo,
        shard: MicroBatchShard = SINGLE_PROCESS,
        shares: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum, a scalar with a graph, and the unweighted terms (T,) without one.

        Each counts what this micro-batch's ``shard`` says, or where it is a mean over other things than samples its
        share of :meth:`shares`; a loss that relates samples sees those of all processes.
        """
        values = WireResolver(captures, batch, self.adapters, shard)
        losses = []
        for name, term in zip(self.names, self.terms, strict=True):
            loss = self._value(term, values, step_info, shard)
            factor = shard.global_scale if term.over_batch else shard.local_scale
            if shares is not None and name in shares:
                # of a micro-batch in which nothing counts, a loss of torch is 0 / 0
                loss = torch.where(shares[name] > 0, loss, 0.0) * shares[name]
            elif factor != 1:
                loss = loss * factor
            losses.append(loss)
        weighted = [loss * weight for loss, weight in zip(losses, self.weights(step_info), strict=True)]
        self.weighted = weighted if self.keeps_graphs else []
        total = sum(weighted)
        assert isinstance(total, Tensor)
        return total, torch.stack([loss.detach() for loss in losses])

    def weights(self, step_info: StepInfo) -> list[float]:
        """The factor of each term in a step."""
        return [step_info.at(term.plan.weight) for term in self.terms]

    @property
    def counts(self) -> bool:
        """Whether a term may be a mean over something else than samples."""
        return any(term.counted for term in self.terms)

    @torch.no_grad()
    def shares(self, batches: Sequence[Batch], shards: Sequence[MicroBatchShard]) -> list[dict[str, Tensor]]:
        """What each of this process's micro-batches counts in the whole batch, by the terms that count no samples.

        A share is what the term divides by on the micro-batch over what it would divide by on the whole batch, times
        the number of processes, over which the mean is taken with the gradients.
        """
        counted: dict[str, Tensor] = {}
        if len(batches) > 1 or world_size() > 1:
            resolvers = [WireResolver({}, batch, self.adapters) for batch in batches]
            for name, term in zip(self.names, self.terms, strict=True):
                numbers = [number for values in resolvers if (number := term.divisor(values)) is not None]
                if numbers:
                    counted[name] = torch.stack(numbers).float()
        if not counted:
            return [{} for _ in batches]
        own = torch.tensor([float(shard.rows[rank()] > 0) for shard in shards])
        numbers_of_terms = torch.stack(list(counted.values())) * own.to(batches[0].index.device)
        totals = all_reduce_sum_(numbers_of_terms.sum(1, keepdim=True)).clamp(min=torch.finfo(torch.float32).tiny)
        return [dict(zip(counted, column, strict=True)) for column in (numbers_of_terms / totals * world_size()).T]

    def _value(self, term: Term, values: WireResolver, step_info: StepInfo, shard: MicroBatchShard) -> Tensor:
        """One loss: its adapters run under the models' precision, the loss itself in float32."""
        try:
            for wired in term.plan.wires.values():
                values.get(wired)
            with torch.autocast(values.device, enabled=False), term.foreign_errors():
                loss: Tensor = term(values, step_info, shard)
        except KDError as error:
            raise error.at(*term.plan.path) from None
        return loss


def _built(plan: TermPlan, builder: Builder, probe: Callable[[], Values] | None) -> Term:
    with _errors_at(plan):
        return Term(plan, builder, probe)


@contextmanager
def _errors_at(plan: TermPlan) -> Iterator[None]:
    """Whatever goes wrong in building a loss is an error of its term."""
    try:
        yield
    except KDError as error:
        raise error.at(*plan.path) from None
    except Exception as error:  # a constructor may raise anything
        message = f"the loss cannot be built: {type(error).__name__}: {error}"
        raise KDError(message).at(*plan.path) from error


def as_float(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32, all others as they are."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def detached_float(tensor: Tensor) -> Tensor:
    """The same without a graph."""
    return as_float(tensor.detach())


def describe_loss(value: Any) -> str:
    """A value by its type and shape."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


class Step(nn.Module):
    """Everything trainable of a step in one module, so that one DDP or FSDP wrapper sees it all."""

    def __init__(self, models: Mapping[str, nn.Module], objective: Objective) -> None:
        super().__init__()
        self.models = nn.ModuleDict(dict(models))
        self.objective = objective

    def forward(
        self,
        batch: Batch,
        frozen: Mapping[str, Capture],
        step_info: StepInfo,
        shard: MicroBatchShard,
        shares: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the trained models and the objective on one micro-batch."""
        captures = {name: model(batch.for_model(name)) for name, model in self.models.items()}
        return self.objective({**frozen, **captures}, batch, step_info, shard, shares)
