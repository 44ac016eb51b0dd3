"""Wires: the text by which a config names a tensor, and the way into nested values.

::

    MODEL.output[/field...]                          a model's output
    MODEL.path[:in|:out][:CALL][/field...]           what goes into or comes out of a submodule
    adapters.NAME[/field...]    batch.NAME[/field...]

Dots separate modules and a negative number counts from a container's end (``layer1.-1.relu``); ``:CALL`` chooses among
several calls of one module (``:0``, ``:-1``); fields go into tuples, mappings and dataclasses (``student.output/logits``).
``MODEL.output`` followed by a colon is the submodule of that name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, NoReturn

from kd_core.errors import ConfigError, Problem, did_you_mean, nearest

Field = str | int
_NUMBER = re.compile(r"-?\d+")
_SHAPE = "MODEL.path[:in|:out][:CALL][/field]"


@dataclass(frozen=True, slots=True)
class Tap:
    """A place in one model: what leaves (``out``) or enters (``in``) the module at ``path``, in one of its calls.

    The empty path with ``out`` is the model's own output. ``call`` is None where the module runs once.
    """

    path: str
    side: Literal["out", "in"] = "out"
    call: int | None = None

    def __str__(self) -> str:
        if self == Tap(""):
            return "output"
        side = ":in" if self.side == "in" else ":out" if self.path == "output" and self.call is None else ""
        return f"{self.path}{side}" + ("" if self.call is None else f":{self.call}")


@dataclass(frozen=True, slots=True)
class Wire:
    """A parsed wire: ``root`` is a model's name with a ``tap``, or ``adapters`` or ``batch`` with a ``name``."""

    root: str
    name: str = ""
    tap: Tap | None = None
    fields: tuple[Field, ...] = ()

    def __str__(self) -> str:
        return "/".join([f"{self.root}.{self.tap or self.name}", *map(str, self.fields)])


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a module was called with, where that is not one positional argument alone. :func:`pick` goes into it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def refuse(message: str, hint: str | None = None, path: str = "") -> NoReturn:
    """Raise the ConfigError of one problem, to which the caller may add the place."""
    raise ConfigError(Problem(message, path, hint=hint))


def parse_wire(text: str, models: Collection[str], adapters: Collection[str] = ()) -> Wire:
    """The wire written as ``text``; whether its module exists is not looked at.

    Raises ConfigError with one problem, whose hint says what to write, where the grammar or a name is wrong.
    """
    if not isinstance(text, str):
        refuse(f"a wire is text, not {text!r}", f"write {_SHAPE}, adapters.NAME or batch.NAME")
    if text != "".join(text.split()) or not text:
        refuse(f"wire {text!r} " + ("holds white space" if text else "is empty"), f"write {_SHAPE}")
    head, *fields = text.split("/")
    if "" in fields:
        refuse(f"wire {text!r} has an empty field after '/'", f"write {head}/NAME or {head}/0, or leave the '/' out")
    picked = tuple(int(each) if _NUMBER.fullmatch(each) else each for each in fields)
    root, dot, rest = head.partition(".")
    _check_root(text, root, models)
    if not dot or not rest:
        missing = {"adapters": "adapters.NAME", "batch": "batch.NAME"}.get(root, f"{root}.output")
        refuse(f"wire {text!r} names nothing in {root!r}", "write " + "/".join([missing, *fields]))
    if root in models:
        return Wire(root, tap=_parse_tap(text, root, rest), fields=picked)
    if ":" in rest:
        refuse(
            f"wire {text!r}: ':' chooses a side or a call of a module, {root}.NAME has none",
            f"leave out ':{rest.split(':', 1)[1]}'",
        )
    if root == "adapters" and rest not in adapters:
        refuse(f"wire {text!r}: there is no adapter {rest!r}", did_you_mean(rest, sorted(adapters)))
    return Wire(root, name=rest, fields=picked)


def _check_root(text: str, root: str, models: Collection[str]) -> None:
    known = [*models, "adapters", "batch"]
    if root in known:
        return
    before = root.split(":")[0].split("[")[0]
    if before in known:
        refuse(
            f"wire {text!r}: {before!r} must be followed by '.'",
            f"write {before}.{root[len(before) :].strip(':[]') or 'output'}",
        )
    refuse(f"wire {text!r}: there is no model {root!r}", did_you_mean(root, known))


def _parse_tap(text: str, root: str, rest: str) -> Tap:
    path, *marks = rest.split(":")
    if "[" in path:
        refuse(f"wire {text!r}: no brackets in a path", f"write {root}.{path.replace('[', '.').replace(']', '')}")
    if "" in path.split("."):
        refuse(
            f"wire {text!r} has an empty part between dots",
            f"write {root}.{'.'.join(filter(None, path.split('.'))) or 'output'}",
        )
    if path == "output" and not marks:
        return Tap("")
    side: Literal["out", "in"] = "out"
    if marks and marks[0] in ("in", "out"):
        side = "in" if marks.pop(0) == "in" else "out"
    call = int(marks.pop(0)) if marks and _NUMBER.fullmatch(marks[0]) else None
    if marks:
        _refuse_mark(text, f"{root}.{path}", marks[0], call)
    return Tap(path, side, call)


def _refuse_mark(text: str, head: str, mark: str, call: int | None) -> NoReturn:
    if mark in ("in", "out") and call is not None:
        refuse(f"wire {text!r}: the side comes before the call", f"write {head}:{mark}:{call}")
    meant = nearest(mark, ["in", "out", "input", "output"])
    hint = (
        f"did you mean ':{'in' if meant.startswith('in') else 'out'}'?"
        if meant
        else "write :in, :out or the number of a call, such as :0 or :-1"
    )
    refuse(f"wire {text!r}: ':{mark}' is neither a side nor a call", hint)


def pick(value: Any, fields: Sequence[Field]) -> Any:
    """Go from ``value`` into tuples and lists (int), mappings (key) and dataclasses (name), one field after another.

    :class:`Inputs` without a field is its only positional argument; an int chooses a positional one, a name a keyword.
    Raises ConfigError that lists what is there.
    """
    if isinstance(value, Inputs):
        value, fields = _enter_inputs(value, fields)
    for depth, each in enumerate(fields):
        try:
            value = _enter(value, each)
        except (LookupError, TypeError, AttributeError):
            there = _choices(value)
            hint = (
                (did_you_mean(str(each), there) if isinstance(each, str) else f"there is: {', '.join(there)}")
                if there
                else None
            )
            where = "/".join(map(str, fields[:depth]))
            refuse(f"{'/' + where if where else 'the value'} is {describe(value)} and has no field {each!r}", hint)
    return value


def _enter_inputs(value: Inputs, fields: Sequence[Field]) -> tuple[Any, Sequence[Field]]:
    if fields and fields[0] in value.kwargs:
        return value.kwargs[str(fields[0])], fields[1:]
    if len(value.args) == 1:
        return value.args[0], fields
    if fields and isinstance(fields[0], int) and -len(value.args) <= fields[0] < len(value.args):
        return value.args[fields[0]], fields[1:]
    there = ", ".join([*(f"/{i}" for i in range(len(value.args))), *(f"/{key}" for key in value.kwargs)])
    lacks = f"have no {'/'.join(map(str, fields))!r}" if fields else "are not one positional argument"
    refuse(f"the inputs {describe(value)} {lacks}", f"add one of: {there}" if there else None)


def _enter(value: Any, field: Field) -> Any:
    if isinstance(value, Mapping):
        return value[field] if field in value else value[str(field)]
    if isinstance(value, (tuple, list)):
        return value[field] if isinstance(field, int) else getattr(value, _only(field, getattr(value, "_fields", ())))
    return getattr(value, _only(str(field), _choices(value)))


def _only(name: str, allowed: Collection[str]) -> str:
    if name not in allowed:
        raise LookupError(name)
    return name


def _choices(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, (tuple, list)):
        return [*getattr(value, "_fields", ()), *map(str, range(len(value)))]
    return [each.name for each in fields(value)] if is_dataclass(value) and not isinstance(value, type) else []


def describe(value: Any) -> str:
    """Shapes of what is nested in ``value``: ``(8, 3, 32, 32)``, ``[(8, 5), {'mask': (8, 5)}]``, ``Cache``."""
    if hasattr(value, "untyped_storage"):
        return str(tuple(value.shape))
    if isinstance(value, Inputs):
        return ", ".join(
            [*map(describe, value.args), *(f"{key}={describe(each)}" for key, each in value.kwargs.items())]
        )
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(describe, value)) + "]"
    if is_dataclass(value) and not isinstance(value, type):
        return "{" + ", ".join(f"{each.name}: {describe(getattr(value, each.name))}" for each in fields(value)) + "}"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
