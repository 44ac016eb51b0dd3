"""Binding terms and adapters: a signature's parameters to the wires and values that a config gives."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_core.adapters import ADAPTERS
from kd_core.config import Builder, Call, Get, Lazy, Policy, RunValue, Text
from kd_core.config.schedules import Ramp, Schedule, Staircase, parse_schedule
from kd_core.config.schema import AdapterSpec, Path, TermSpec, as_list
from kd_core.config.validation import Validator, show_value, wanted_of
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError, did_you_mean, nearest
from kd_core.losses import LOSSES, LossSignature, loss_signature
from kd_core.plan.groups import groups_of
from kd_core.plan.plan import RESERVED, AdapterPlan, TermPlan, Wired, flat
from kd_core.ranges import range_of
from kd_core.signatures import is_open, parameters, values_of
from kd_core.taps.wires import Tap, Wire, parse_wire

DEFAULTS = {"student": "student.output", "input": "student.output", "teacher": "teacher.output"}
LOGITS = "@logits"
"""The place of what a task scores, in whichever field of a model's output."""
RANGE_ERRORS = ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error")
"""What pydantic calls a value of the right type that lies outside a range."""
BATCH_WIRES = ("target", "mask", "index", "view")
KINDS: dict[type, str] = {
    nn.Module: "torch.nn.Module",
    Optimizer: "torch.optim.Optimizer",
    LRScheduler: "torch.optim.lr_scheduler.LRScheduler",
}
"""What a call can have to be, by the names people know."""


class WireBinder:
    """Binds pieces of one config; every problem goes to its validator."""

    def __init__(self, validator: Validator, policy: Policy) -> None:
        self.validator = validator
        self.policy = policy
        self.builder = Builder(policy)
        data = validator.document.data
        self.groups = groups_of(data.get("models"))
        """The names of the models in each group."""
        models = list(data["models"]) if isinstance(data.get("models"), Mapping) else []
        members = [member for group in self.groups.values() for member in group]
        self.models = [name for name in dict.fromkeys([*models, *members, STUDENT]) if name not in RESERVED]
        self.adapters = list(data["adapters"]) if isinstance(data.get("adapters"), Mapping) else []
        self.output = ""
        """The field of a model's output that losses take by default, empty for all of it."""
        self.mask = ""
        """The wire of what counts in outputs, empty where all of them does."""

    def calls(self, value: Any, path: Path, supplied: Sequence[str] = (), *, kind: type | None = None) -> bool:
        """Locate and bind every call in ``value``; whether all is well. ``kind`` is what the outermost is to make."""
        if kind is not None and isinstance(value, Call) and self._makes_another(value, kind):
            self.validator.report(path, f"{value.target} is not a {KINDS[kind]}")
            return False
        problems = self.builder.check(value, supplied, ".".join(map(str, path)))
        self.validator.problems += problems
        if kind is None or problems:
            return not problems
        if isinstance(value, (Get, RunValue, Text)):
            self.validator.report(path, f"{show_value(value)} is not a {KINDS[kind]}", "write !call:dotted.path {}")
        else:
            return True  # only building would tell
        return False

    def _makes_another(self, call: Call, kind: type) -> bool:
        """Whether a call that may be made is of a class that is none of ``kind``: then its arguments do not matter."""
        try:
            target = self.policy.locate(call.target)
        except KDError:
            return False
        return inspect.isclass(target) and not issubclass(target, kind)

    def name(self, name: str, path: Path, subject: str, reserved: Sequence[str] = ()) -> bool:
        """Whether a key can name a model, an adapter or a term."""
        if name in reserved:
            why = f"the words {', '.join(reserved)} are taken"
        elif hasattr(nn.Module, name):
            why = "every torch.nn.Module has an attribute of that name"
        elif not name.isidentifier():
            why = "a name is letters, digits and _, and begins with no digit"
        else:
            return True
        self.validator.report(path, f"{name!r} cannot name {subject}: {why}", key=True)
        return False

    def wire(self, text: str, path: Path) -> Wire | None:
        """The wire written as ``text``, which must be one."""
        wires = self.wires(text, path)
        if isinstance(wires, list):
            hint = f"choose one, such as {wires[0]}"
            self.validator.report(path, f"{text!r} is a list of {len(wires)} wires, and one is needed here", hint)
            return None
        return wires

    def wires(self, text: str, path: Path) -> Wired | None:
        """The wire written as ``text``; of a group the wires of its models."""
        try:
            wire = parse_wire(self._scored(text), self.models, self.adapters)
        except KDError as error:
            self.validator.add_error(path, error)
            return None
        group = self.groups.get(wire.root)
        return wire if group is None else [replace(wire, root=member) for member in group]

    def _scored(self, text: str) -> str:
        """``MODEL.@logits`` written out: the output, or the field of it that the task scores."""
        head, *fields = text.split("/") if isinstance(text, str) else [""]
        root, _, place = head.partition(".")
        return "/".join([f"{root}.output", *filter(None, [self.output]), *fields]) if place == LOGITS else text

    def parameters(
        self, function: Callable[..., Any], title: str, values: Mapping[str, Any], path: Path, extra_keys: Sequence[str]
    ) -> None:
        """Check values against the hyperparameters of a registered thing; ``extra_keys`` are the piece's other keys."""
        takes = values_of(function)
        open_ended = any(is_open(parameter) for parameter in parameters(function))
        for key, value in values.items():
            if key not in takes:
                if open_ended and key not in extra_keys:
                    continue  # **kwargs: only building would tell
                self.validator.unknown_key((*path, key), f"{title} has no parameter {key!r}", [*takes, *extra_keys])
            elif isinstance(value, Lazy):
                self.calls(value, (*path, key))
            elif isinstance(value, (Ramp, Staircase)):
                all(self._value(takes[key], number, (*path, key, *index)) for index, number in value.numbers())
            else:
                self._value(takes[key], value, (*path, key))
        for key, parameter in takes.items():
            if parameter.default is parameter.empty and key not in values:
                self.validator.report(path, f"{title} is missing the required parameter {key!r}")

    def _value(self, parameter: inspect.Parameter, value: Any, path: Path) -> bool:
        """Whether the parameter may have that value; if not, why has been reported."""
        if parameter.annotation is parameter.empty or isinstance(parameter.annotation, str):
            return True  # written for type checkers only
        if isinstance(value, float) and not math.isfinite(value):
            self.validator.report(path, f"must be a finite number, not {show_value(value)}")
            return False
        try:
            TypeAdapter(parameter.annotation).validate_python(value, strict=True)
        except ValidationError as error:
            faults = error.errors(include_url=False)
            limits = range_of(parameter.annotation)
            if limits is not None and all(fault["type"] in RANGE_ERRORS for fault in faults):
                self.validator.report(path, f"must be {limits}, not {show_value(value)}", limits.hint(value))
            else:
                self.validator.report(path, f"must be {wanted_of(faults)}, not {show_value(value)}")
            return False
        return True

    # -- terms

    def term(self, name: str, spec: TermSpec, path: Path) -> TermPlan | None:
        """A term with its wires and values bound, None where its loss is not found."""
        resolved = self._loss(spec, path)
        if resolved is None:
            return None
        loss, takes, title = resolved
        inputs = set(spec.extra) if takes is None else set(takes.wires)
        values = {key: value for key, value in spec.extra.items() if key not in inputs}
        schedules: dict[str, Schedule] = {}
        if takes is not None:
            schedules = self._schedules(values, takes, path)
            self._term_values(loss, takes, title, values, schedules, path)
        wires = self._term_wires(takes or LossSignature(tuple(spec.extra), (), {}), title, spec, path)
        detach = frozenset(as_list(spec.detach))
        for unknown in sorted(detach - set(wires)):
            self.validator.report(
                (*path, "detach"), f"{title} has no input {unknown!r}", did_you_mean(unknown, list(wires))
            )
        weight: Any = (
            self._schedule(spec.weight, (*path, "weight")) if isinstance(spec.weight, Mapping) else spec.weight
        )
        return TermPlan(name, path, loss, wires, values, schedules, weight, detach)

    def _loss(self, spec: TermSpec, path: Path) -> tuple[Any, LossSignature | None, str] | None:
        """The loss, what it takes (None: only building it would tell), and its name in messages."""
        try:
            if isinstance(spec.loss, str):
                return LOSSES.get(spec.loss), loss_signature(LOSSES.get(spec.loss)), spec.loss
            if not self.calls(spec.loss, (*path, "loss")):
                return None
            if not isinstance(spec.loss, (Call, Get)):
                return spec.loss, None, "the loss"
            target = self.policy.locate(spec.loss.target)
            if inspect.isclass(target) and not issubclass(target, nn.Module):
                raise KDError(f"{spec.loss.target} is not a loss", hint="name a function or a torch.nn.Module")
            readable = isinstance(spec.loss, Get) != inspect.isclass(target)
            return spec.loss, loss_signature(target) if readable else None, spec.loss.target
        except KDError as error:
            self.validator.add_error((*path, "loss"), error)
        return None

    def _schedules(self, values: dict[str, Any], takes: LossSignature, path: Path) -> dict[str, Schedule]:
        """Take the values that are schedules out of ``values``."""
        keys = [
            key
            for key, value in values.items()
            if isinstance(value, Mapping) and key in takes.values and "schedule" in value
        ]
        parsed = {key: self._schedule(values.pop(key), (*path, key)) for key in keys}
        return {key: schedule for key, schedule in parsed.items() if schedule is not None}

    def _schedule(self, value: Any, path: Path) -> Any:
        try:
            return parse_schedule(value)
        except KDError as error:
            self.validator.add_error(path, error)
            return None

    def _term_values(
        self,
        loss: Any,
        takes: LossSignature,
        title: str,
        values: Mapping[str, Any],
        schedules: Mapping[str, Any],
        path: Path,
    ) -> None:
        keys = [*takes.wires, *(key for key in TermSpec.model_fields)]
        if isinstance(loss, Lazy):
            for key in values:
                message = f"{title} has no input {key!r}"
                if key in takes.values:
                    hint = f"write the parameters of a !call inside its braces: !call:{title} {{{key}: ...}}"
                    self.validator.report((*path, key), message, hint, key=True)
                else:
                    self.validator.unknown_key((*path, key), message, keys)
            return
        if schedules and inspect.isclass(loss):
            self.validator.report(
                path, f"{title} is built once, with fixed hyperparameters: only a loss function's can follow a schedule"
            )
        self.parameters(loss, title, {**values, **schedules}, path, keys)

    def _term_wires(self, takes: LossSignature, title: str, spec: TermSpec, path: Path) -> dict[str, Wired]:
        wires: dict[str, Wired] = {}
        for key in takes.wires:
            value = spec.extra.get(key)
            where = (*path, key) if key in spec.extra else path
            if value is None and key not in takes.optional_wires:
                value = self._default(key)
            if value is None:
                if key not in takes.optional_wires:
                    hint = f"write `{key}: MODEL.path`, `{key}: adapters.NAME` or `{key}: batch.NAME`"
                    if key in DEFAULTS and key not in spec.extra:
                        hint = f"there is no model {DEFAULTS[key].split('.')[0]!r}: {hint}"
                    self.validator.report(where, f"{title} needs a wire for {key!r}", hint)
            elif (wired := self.wired(value, where)) is not None:
                wires[key] = wired
        if self.mask and "mask" in takes.optional_wires and "mask" not in spec.extra and self._of_outputs(wires):
            wires["mask"] = parse_wire(self.mask, self.models)
        return wires

    def _of_outputs(self, wires: Mapping[str, Wired]) -> bool:
        """Whether all that a loss compares is what the task scores of models' outputs."""
        scored = [wire.tap == Tap("") and wire.fields == (self.output,) for wire in flat(wires.values())]
        return bool(scored) and all(scored)

    def wired(self, value: Any, path: Path) -> Wired | None:
        """A wire or a list of wires, which a group in it makes longer."""
        if isinstance(value, str):
            return self.wires(value, path)
        if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            wires = [self.wires(item, (*path, position)) for position, item in enumerate(value)]
            return list(flat(wire for wire in wires if wire is not None))
        self.validator.report(path, f"must be a wire or a list of wires, not {show_value(value)}")
        return None

    def _default(self, key: str) -> str | None:
        if key in BATCH_WIRES:
            return f"batch.{key}"
        wire = DEFAULTS.get(key)
        if wire is None or wire.split(".")[0] not in self.models:
            return None
        return f"{wire}/{self.output}" if self.output else wire

    # -- adapters

    def adapter(self, name: str, spec: AdapterSpec, path: Path) -> AdapterPlan | None:
        """An adapter with its inputs bound, None where its module is not found."""
        module = self._module(spec, path)
        if module is None:
            return None
        builder, borrowed = module
        if spec.each and isinstance(spec.module, Lazy):
            message = "only a registered adapter, or the module of a model, can stand for each item of a list"
            self.validator.report((*path, "each"), message)
        if spec.fresh and borrowed is None:
            self.validator.report((*path, "fresh"), "only a module of a model can be made anew: all others are")
        wire = self.wires if spec.each else self.wire
        match = wire(spec.match, (*path, "match")) if spec.match else None
        inputs = self._inputs(spec, (*path, "inputs"))
        taps = self._taps(spec, (*path, "taps"))
        return AdapterPlan(name, path, spec, builder, borrowed, inputs, match, spec.extra, taps)

    def _taps(self, spec: AdapterSpec, path: Path) -> dict[str, Wire]:
        """The places of the model that an adapter runs, which its output has."""
        if spec.taps is None:
            return {}
        if spec.module not in self.models or spec.each or spec.fresh:
            message = "only of one whole model that the adapter shares can places be read"
            self.validator.report(path, message, "`module: teacher` without `each` and `fresh`", key=True)
            return {}
        wires: dict[str, Wire] = {}
        for name, place in spec.taps.items():
            if "/" in name or not name:
                self.validator.report((*path, name), f"{name!r} cannot name a tap: write it without '/'", key=True)
            elif (wire := self.wire(f"{spec.module}.{place}", (*path, name))) is not None:
                wires[name] = wire
        return wires

    def _inputs(self, spec: AdapterSpec, path: Path) -> list[Wired] | dict[str, Wired]:
        """What an adapter is fed: wires in order, or a wire or a list of wires by name."""
        if not isinstance(spec.inputs, Mapping):
            item_paths = (
                [(*path, position) for position in range(len(spec.inputs))] if isinstance(spec.inputs, list) else [path]
            )
            wires = [
                self.wires(text, item_path) for text, item_path in zip(as_list(spec.inputs), item_paths, strict=True)
            ]
            return [wire for wire in wires if wire is not None]
        for name in spec.inputs:
            if not name.isidentifier():
                message = f"{name!r} is not the name of an argument: it takes letters, digits and _"
                self.validator.report((*path, name), message, key=True)
        named = {name: self.wired(value, (*path, name)) for name, value in spec.inputs.items()}
        return {name: wired for name, wired in named.items() if wired is not None}

    def _module(self, spec: AdapterSpec, path: Path) -> tuple[Any, Wired | None] | None:
        """The builder of an adapter, or the wire of the module it borrows, with ``each`` those of a group."""
        if isinstance(spec.module, Lazy):
            self.calls(spec.module, (*path, "module"), kind=nn.Module)
            self._no_values(spec, path, "write the parameters of a !call inside its braces")
            return spec.module, None
        if spec.module.split(".")[0] in self.models:
            text = f"{spec.module}.output" if spec.module in self.models else spec.module
            borrowed = (self.wires if spec.each else self.wire)(text, (*path, "module"))
            self._no_values(spec, path, "parameters cannot be set on a module shared from a model")
            return (None, borrowed) if borrowed is not None else None
        try:
            builder = ADAPTERS.get(spec.module)
        except KDError as error:
            (problem,) = error.problems
            root, dot, _ = spec.module.partition(".")
            hint = did_you_mean(root, self.models) if dot or nearest(root, self.models) else problem.hint
            self.validator.report((*path, "module"), problem.message, hint)
            return None
        self.parameters(builder, spec.module, spec.extra, path, list(AdapterSpec.model_fields))
        return builder, None

    def _no_values(self, spec: AdapterSpec, path: Path, why: str) -> None:
        for key in spec.extra:
            self.validator.report(
                (*path, key),
                f"unknown key {key!r}",
                f"{why}; known keys: {', '.join(AdapterSpec.model_fields)}",
                key=True,
            )
