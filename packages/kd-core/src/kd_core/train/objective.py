"""What a stage minimises: weighted terms over wires, the adapters that feed them, and all their state."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kd_core.config import Builder, Lazy
from kd_core.config.schedules import Schedule
from kd_core.data.batch import Batch
from kd_core.device.distributed import SINGLE_PROCESS, MicroBatchShard, gather, gather_samples, own_rows
from kd_core.errors import KDError, foreign_errors
from kd_core.plan.plan import AdapterPlan, TermPlan, Wired
from kd_core.signatures import FROM_INPUTS
from kd_core.taps.nested import map_tensors
from kd_core.taps.wires import Wire, pick
from kd_core.taps.wrappers import Capture, module_at
from kd_core.train.domain import check_domain
from kd_core.train.lazy import has_lazy, materialize


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


class Values(Protocol):
    """What has the values of wires: those of a step, of a probe, or random ones in a check."""

    def get(self, wired: Wired) -> Any:
        """The value of a wire, or of each wire of a list."""
        ...


class WireResolver:
    """What wires carry in one step. Adapters run when first asked for, once.

    ``shard`` says whose rows the batch has; None where every process has the same ones, and nothing is gathered.
    """

    def __init__(
        self,
        captures: Mapping[str, Capture],
        batch: Batch,
        adapters: Adapters,
        shard: MicroBatchShard | None = None,
    ) -> None:
        self._captures = captures
        self._batch = batch
        self._adapters = adapters
        self._computed: dict[str, Any] = {}
        self.shard = shard
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
        picked = pick(value, wire.fields)
        if picked is None:
            hint = "attention maps need a model with `attn_implementation: eager`"
            raise KDError(f"{wire} is None: the module returned None there", hint=hint)
        return picked

    def _adapted(self, name: str) -> Any:
        if name not in self._computed:
            self._computed[name] = self._adapters.run(name, self, self.shard)
        return self._computed[name]

    def put(self, name: str, output: Any) -> None:
        """Keep what the adapter ``name`` gave."""
        self._computed[name] = output

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

    def run(self, name: str, values: Values, shard: MicroBatchShard | None = None) -> Any:
        """The output of one adapter for the inputs of this step, for the rows of this process."""
        module, plan = self._module(name), self._plans[name]
        if shard is None or not any(getattr(item, "over_batch", False) for item in (module, plan.builder)):
            return called(module, inputs_of(plan, values.get))
        inputs = inputs_of(plan, lambda wired: gathered(wired, values.get(wired), shard))
        return own_rows(called(module, inputs), shard.rows)

    def try_out(self, name: str, values: WireResolver) -> None:
        """Keep in ``values`` what an adapter gives for a probe batch; nothing that the pass changes in it stays."""
        module, plan = self._module(name), self._plans[name]
        trial = module if name in self._borrowed else copy.deepcopy(module)
        values.put(name, called(trial, inputs_of(plan, values.get)))

    def _module(self, name: str) -> nn.Module:
        module = self._borrowed[name] if name in self._borrowed else self._modules[name]
        assert module is not None
        return module

    def build(self, name: str, values: Values, models: Mapping[str, nn.Module], builder: Builder) -> None:
        """Make an adapter whose widths come from a probe batch's ``values``; a second call changes nothing."""
        plan = self._plans[name]
        if name in self._modules or name in self._borrowed:
            return
        if plan.borrowed is not None:
            assert plan.borrowed.tap is not None
            self._borrowed[name] = module_at(models[plan.borrowed.root], plan.borrowed.tap.path)
            return
        module = self._made(plan, values, builder)
        if has_lazy(module):
            inputs = inputs_of(plan, lambda wired: map_tensors(on_cpu, values.get(wired)))
            materialize(module, *inputs[0], **inputs[1])
        self.add_module(name, module)

    def _made(self, plan: AdapterPlan, values: Values, builder: Builder) -> nn.Module:
        if isinstance(plan.builder, Lazy):
            module = builder.build(plan.builder, path=".".join((*map(str, plan.path), "module")))
            if not isinstance(module, nn.Module):
                raise KDError(f"{type(module).__name__} is not a torch.nn.Module", path="module")
            return module
        assert plan.builder is not None
        positional, named = inputs_of(plan, values.get)
        inputs = named or positional
        match = values.get(plan.match) if plan.match else None
        adapter: nn.Module = plan.builder(inputs, match, plan.spec.out_features, **plan.values)
        return adapter


def inputs_of(plan: AdapterPlan, get: Callable[[Wired], Any]) -> tuple[list[Any], dict[str, Any]]:
    """What an adapter is called with: its positional arguments and those by name."""
    if isinstance(plan.inputs, Mapping):
        return [], {name: get(wired) for name, wired in plan.inputs.items()}
    return [get(wired) for wired in plan.inputs], {}


def called(module: nn.Module, inputs: tuple[list[Any], dict[str, Any]]) -> Any:
    """The output of a module for positional and named arguments."""
    return module(*inputs[0], **inputs[1])


def gathered(wired: Wired, value: Any, shard: MicroBatchShard) -> Any:
    """A wire's value with the rows of all processes. Only in the batch is a list one value a sample."""
    if isinstance(wired, list):
        return [gathered(wire, item, shard) for wire, item in zip(wired, value, strict=True)]
    return gather_samples(value, shard.rows) if wired.root == "batch" else gather(value, shard.rows)


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
        self.over_batch: bool = getattr(plan.loss, "over_batch", False)
        where = ".".join(map(str, plan.path))
        if isinstance(plan.loss, Lazy):
            self.module = builder.build(plan.loss, path=f"{where}.loss")
        elif isinstance(plan.loss, type):
            hyperparameters = builder.build(dict(plan.values), path=where)
            from_inputs = getattr(plan.loss, FROM_INPUTS, None)
            if from_inputs is not None and probe is not None:
                self.module = from_inputs(self._probed(probe), **hyperparameters)
            else:
                self.module = plan.loss(**hyperparameters)
        else:
            self._hyperparameters = builder.build(dict(plan.values), path=where)
        self.over_batch |= getattr(self.module, "over_batch", False)

    def materialize(self, probe: Callable[[], Values]) -> None:
        """Give lazy layers their shapes; KDError where the loss fails on the probe batch."""
        if self.module is not None and has_lazy(self.module):
            materialize(self.module, **self._probed(probe))

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
        inputs = {key: self._input(key, values.get(wired)) for key, wired in self.plan.wires.items()}
        if self.over_batch and shard is not None:
            inputs = {key: gathered(self.plan.wires[key], value, shard) for key, value in inputs.items()}
        if self.module is not None:
            loss = self.module(**inputs)
        else:
            now = {key: step_info.at(schedule) for key, schedule in self.plan.schedules.items()}
            loss = self.plan.loss(**inputs, **self._hyperparameters, **now)  # type: ignore[operator]
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            raise KDError(f"the loss returned {describe_loss(loss)}, not one number (set its reduction to 'mean')")
        return loss

    def _input(self, key: str, value: Any) -> Any:
        return map_tensors(detached_float if key in self.plan.detach else as_float, value)


class Objective(nn.Module):
    """The weighted sum of a stage's terms. A term that a stage takes over from the one before keeps its state.

    ``probe`` runs what the stage looks at on a few samples, for losses whose shapes depend on their inputs.
    """

    def __init__(
        self,
        plans: Mapping[str, TermPlan],
        adapters: Adapters,
        builder: Builder,
        before: Objective | None = None,
        probe: Callable[[], Values] | None = None,
    ) -> None:
        super().__init__()
        self.adapters = adapters
        existing = (
            {} if before is None else {term.plan.name: term for term in before.terms if term.plan in plans.values()}
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
    ) -> tuple[Tensor, Tensor]:
        """The weighted sum, a scalar with a graph, and the unweighted terms (T,) without one.

        Each counts what this micro-batch's ``shard`` says: a loss over pairs of samples sees those of all processes.
        """
        values = WireResolver(captures, batch, self.adapters, shard)
        losses = []
        for term in self.terms:
            factor = shard.global_scale if term.over_batch else shard.local_scale
            loss = self._value(term, values, step_info, shard)
            losses.append(loss * factor if factor != 1 else loss)
        weighted = [loss * step_info.at(term.plan.weight) for term, loss in zip(self.terms, losses, strict=True)]
        self.weighted = weighted if self.keeps_graphs else []
        total = sum(weighted)
        assert isinstance(total, Tensor)
        return total, torch.stack([loss.detach() for loss in losses])

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


def on_cpu(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, one on the meta device as it is."""
    return tensor if tensor.is_meta else tensor.cpu()


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
        self, batch: Batch, frozen: Mapping[str, Capture], step_info: StepInfo, shard: MicroBatchShard
    ) -> tuple[Tensor, Tensor]:
        """Run the trained models and the objective on one micro-batch."""
        captures = {name: model(batch.for_model(name)) for name, model in self.models.items()}
        return self.objective({**frozen, **captures}, batch, step_info, shard)
