"""What wires carry in a step, and the adapters that make some of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from kd_core.adapters.registry import CountsSteps
from kd_core.config import Builder, Lazy
from kd_core.data.batch import PARTNER, STUDENT, Batch
from kd_core.device.distributed import MicroBatchShard, gather, gather_samples, own_rows
from kd_core.errors import KDError
from kd_core.plan.plan import AdapterPlan, Wired
from kd_core.taps.landmarks import keep_those_of
from kd_core.taps.nested import map_tensors, mapped
from kd_core.taps.paths import module_at
from kd_core.taps.wires import Wire, pick
from kd_core.taps.wrappers import Capture, ForwardWrapper
from kd_core.train.lazy import has_lazy, materialize


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

    def taken_by(self, models: Collection[str]) -> Callable[[Wired], Any]:
        """:meth:`get` for what runs ``models`` as a whole: what the batch gives to models is what that one takes."""
        names = set(models)
        if len(names) != 1:
            return self.get
        [model] = names

        given = {"input", *({PARTNER} & self._batch.extra.keys())}

        def get(wired: Wired) -> Any:
            if isinstance(wired, Wire) and wired.root == "batch" and not wired.fields and wired.path in given:
                return self._batch.taken(wired.path, model)
            return self.get(wired)

        return get

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
        if name == "input":
            return self._batch.taken(name, STUDENT)
        if name not in self._batch.extra:
            names = ", ".join(("target", "index", "input", *self._batch.extra))
            hint = "a stage's `partners:` gives them" if name == PARTNER else None
            raise KDError(f"the batch has no {name!r}; it has: {names}", hint=hint)
        return self._batch.extra[name]


class Adapters(nn.Module):
    """The run's adapters by name. Borrowed modules stay their model's: they are called, not owned.

    ``make`` builds the model of a name with random weights, for modules that are made anew (``fresh``); ``call`` runs
    a model that is shared as a whole.
    """

    def __init__(
        self,
        plans: Mapping[str, AdapterPlan],
        make: Callable[[str], nn.Module] | None = None,
        call: Callable[[nn.Module, Any], Any] | None = None,
    ) -> None:
        super().__init__()
        self._plans, self._make, self._call = dict(plans), make, call
        self._borrowed: dict[str, nn.Module] = {}

    def run(self, name: str, values: Values, shard: MicroBatchShard | None = None) -> Any:
        """The output of one adapter for the inputs of this step, for the rows of this process."""
        module, plan = self._module(name), self._plans[name]
        if shard is None or not self.over_batch(name):
            return called(module, inputs_of(plan, getter(values, plan)))
        get = getter(values, plan)
        inputs = inputs_of(plan, lambda wired: gathered(wired, get(wired), shard))
        return own_rows(called(module, inputs), shard.rows)

    def over_batch(self, name: str) -> bool:
        """Whether an adapter relates the samples of a batch, and is given those of all processes."""
        return any(getattr(item, "over_batch", False) for item in (self._module(name), self._plans[name].builder))

    def after_step(self, names: Iterable[str]) -> None:
        """Tell those of these adapters that count steps of another one."""
        for name in names:
            if isinstance(module := self._module(name), CountsSteps):
                module.after_step()

    def try_out(self, name: str, values: WireResolver) -> None:
        """Keep in ``values`` what an adapter gives for a probe batch; nothing that the pass changes in it stays."""
        module, plan = self._module(name), self._plans[name]
        trial = module if name in self._borrowed else copy.deepcopy(module)
        values.put(name, called(trial, inputs_of(plan, getter(values, plan))))

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
            modules = [self._of_model(plan, wire, models[wire.root]) for wire in plan.shared]
            together = Each(modules) if isinstance(plan.borrowed, list) else modules[0]
            if plan.spec.each and not isinstance(together, Each):
                together = OnEach(together)
            if plan.spec.fresh:
                self.add_module(name, together)
            else:
                self._borrowed[name] = together
            return
        module = self._made(plan, values, builder)
        if has_lazy(module):
            inputs = inputs_of(plan, lambda wired: map_tensors(on_cpu, values.get(wired)))
            materialize(module, *inputs[0], **inputs[1])
        self.add_module(name, module)

    def release(self, names: Iterable[str]) -> None:
        """Take the hooks of these adapters off the models that they run; the next pass puts them on again."""
        for name in names:
            if isinstance(module := self._borrowed.get(name), TappedModel):
                module.release()

    def _of_model(self, plan: AdapterPlan, wire: Wire, model: nn.Module) -> nn.Module:
        """The module that a wire names, of the model or of a new one like it."""
        assert wire.tap is not None
        if plan.taps:
            return TappedModel(model, wire.root, plan.taps, self._call)
        if plan.spec.fresh:
            assert self._make is not None
            twin = self._make(wire.root)
            keep_those_of(twin, model)
            model = twin
        module = module_at(model, wire.tap.path)
        return module if wire.tap.path or self._call is None else Whole(module, self._call)

    def _made(self, plan: AdapterPlan, values: Values, builder: Builder) -> nn.Module:
        if isinstance(plan.builder, Lazy):
            module = builder.build(plan.builder, path=".".join((*map(str, plan.path), "module")))
            if not isinstance(module, nn.Module):
                raise KDError(f"{type(module).__name__} is not a torch.nn.Module", path="module")
            return module
        positional, named = inputs_of(plan, values.get)
        match = values.get(plan.match) if plan.match else None
        if not plan.spec.each:
            return _registered(plan, named or positional, match)
        items = unzipped({"match": match, **dict(enumerate(positional)), **named})
        matches = [item.pop("match") for item in items]
        inputs = [item if named else list(item.values()) for item in items]
        return Each([_registered(plan, one, match) for one, match in zip(inputs, matches, strict=True)])


def _registered(plan: AdapterPlan, inputs: Any, match: Any) -> nn.Module:
    assert plan.builder is not None
    assert not isinstance(plan.builder, Lazy)
    adapter: nn.Module = plan.builder(inputs, match, plan.spec.out_features, **plan.values)
    return adapter


class Whole(nn.Module):
    """A model that an adapter runs, as the task runs it."""

    def __init__(self, model: nn.Module, call: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.model, self._call = model, call

    def forward(self, inputs: Any) -> Any:
        """The model's output."""
        return self._call(self.model, inputs)


class TappedModel(nn.Module):
    """A model that an adapter runs, as the task runs it, for the values at some of its places, by name.

    Gradients flow through it to its input, whether its parameters learn or not.
    """

    def __init__(
        self, model: nn.Module, name: str, taps: Mapping[str, Wire], call: Callable[[nn.Module, Any], Any] | None
    ) -> None:
        super().__init__()
        self.model, self._wires = model, dict(taps)
        self._taps = [wire.tap for wire in taps.values() if wire.tap is not None]
        self._wrapper = ForwardWrapper(model, name=name, call=call, early_stop=True, spare=True)

    def forward(self, inputs: Any) -> dict[str, Any]:
        """What the model gives at each place."""
        self._wrapper.retap(self._taps)
        at = self._wrapper(inputs).at
        return {name: pick(at[wire.tap], wire.fields) for name, wire in self._wires.items() if wire.tap is not None}

    def release(self) -> None:
        """Take the hooks off the model."""
        self._wrapper.release()


class Each(nn.ModuleList):
    """One adapter for each item of the lists that it is called with; it gives a list."""

    def forward(self, *inputs: Any, **named: Any) -> list[Any]:
        """The outputs of the adapters, each for its items."""
        items = unzipped({**dict(enumerate(inputs)), **named})
        count = len(inputs)
        return [
            module(*(item[index] for index in range(count)), **{key: item[key] for key in named})
            for module, item in zip(self, items, strict=True)
        ]

    @property
    def over_batch(self) -> bool:
        """Whether they relate the samples of a batch."""
        return any(getattr(module, "over_batch", False) for module in self)


class OnEach(nn.Module):
    """One module for all items of the lists that it is called with, item by item; it gives a list."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Any, **named: Any) -> list[Any]:
        """The outputs of the module for each item."""
        items = unzipped({**dict(enumerate(inputs)), **named})
        return [
            self.module(*(item[index] for index in range(len(inputs))), **{key: item[key] for key in named})
            for item in items
        ]


def levels(value: Any) -> list[Any] | tuple[Any, ...] | None:
    """The items of a list, or of a mapping such as a feature pyramid's; None for anything else.

    A dataclass that is a mapping, as transformers' outputs are, holds unlike things by name, and is no list.
    """
    if isinstance(value, Mapping) and not is_dataclass(value):
        return list(value.values())
    return value if isinstance(value, (list, tuple)) else None


def unzipped(inputs: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    """The inputs of each item of the lists among them, which are all of one length; what is no list is every item's.

    A mapping is the list of its values (:func:`levels`). KDError where there is no list, where their lengths differ,
    or the keys of two mappings.
    """
    keys = {
        name: list(value) for name, value in inputs.items() if isinstance(value, Mapping) and not is_dataclass(value)
    }
    if any(names != first for names in keys.values() for first in [*keys.values()][:1]):
        names = ", ".join(f"{name} has {', '.join(map(str, there))}" for name, there in keys.items())
        hint = "choose the same of both: a list of wires such as [student.backbone/0, student.backbone/1]"
        raise KDError(f"the mappings have unlike keys: {names}", hint=hint)
    inputs = {name: value if (items := levels(value)) is None else items for name, value in inputs.items()}
    lengths = {name: len(value) for name, value in inputs.items() if isinstance(value, (list, tuple))}
    if not lengths:
        raise KDError("`each` needs a wire that carries a list", hint="such as student.@features", path="each")
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        hint = "choose as many of both: a list of wires such as [student.@features/0, student.@features/-1]"
        raise KDError(f"the lists are not of one length: {counts}", hint=hint)
    (length,) = set(lengths.values())
    return [
        {name: value[index] if name in lengths else value for name, value in inputs.items()} for index in range(length)
    ]


def getter(values: Values, plan: AdapterPlan) -> Callable[[Wired], Any]:
    """What gives an adapter the values of its wires: one that runs a model sees a batch as that model takes it."""
    return values.taken_by(plan.runs) if isinstance(values, WireResolver) else values.get


def inputs_of(plan: AdapterPlan, get: Callable[[Wired], Any]) -> tuple[list[Any], dict[str, Any]]:
    """What an adapter is called with: its positional arguments and those by name."""
    read = detached(get) if plan.spec.detach else get
    if isinstance(plan.inputs, Mapping):
        return [], {name: read(wired) for name, wired in plan.inputs.items()}
    return [read(wired) for wired in plan.inputs], {}


def detached(get: Callable[[Wired], Any]) -> Callable[[Wired], Any]:
    """``get``, whose values have no graph."""
    return lambda wired: mapped(Tensor.detach, get(wired))


def called(module: nn.Module, inputs: tuple[list[Any], dict[str, Any]]) -> Any:
    """The output of a module for positional and named arguments."""
    return module(*inputs[0], **inputs[1])


def gathered(wired: Wired, value: Any, shard: MicroBatchShard) -> Any:
    """A wire's value with the rows of all processes; a parameter has none. Only in the batch is a list one a sample."""
    if isinstance(wired, list):
        return [gathered(wire, item, shard) for wire, item in zip(wired, value, strict=True)]
    if wired.tap is not None and wired.tap.is_parameter:
        return value
    return gather_samples(value, shard.rows) if wired.root == "batch" else gather(value, shard.rows)


def on_cpu(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, one on the meta device as it is."""
    return tensor if tensor.is_meta else tensor.cpu()
