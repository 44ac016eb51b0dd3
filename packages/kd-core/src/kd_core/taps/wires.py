"""Wires: the text by which a config names a tensor, and the way into nested values.

::

    MODEL.output[/field...]                       a model's output
    MODEL.path[:in|:out][:CALL][/field...]        what goes into or comes out of a submodule
    MODEL.path:weight, MODEL.path:bias            a parameter of a submodule
    MODEL.@LANDMARK[/number][/field...]           a place that every architecture has, see below
    adapters.NAME[/field...]                      an adapter's output
    batch.NAME[/field...]                         a part of the batch

Landmarks are ``@features`` (the ordered feature maps, all of them as a list, or one by its number), ``@preactivations``
(the same before their last activation), ``@norms`` (the batch norms that end them there), ``@attentions``,
``@queries``, ``@keys`` and ``@values`` (of each layer of a transformer), ``@last_map`` (the feature map whose means are
``@penultimate``), ``@penultimate`` (what the classifier takes) and ``@classifier`` (the last linear
layer), see :mod:`kd_core.taps.landmarks`; and ``@logits`` (the output, or the field of it that a task scores), which a
plan writes out.

Dots separate modules, and a negative number counts them from the end (``layer1.-1.relu``); ``:CALL`` chooses among
several calls of one module (``:0``, ``:-1``), or is ``:all``, the list of them; fields go into tuples, mappings and
dataclasses. ``MODEL.output`` followed by a colon is a submodule of that name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal, get_args

from kd_core.errors import ConfigError, ConfigProblem, did_you_mean, nearest

Field = str | int
_NUMBER = re.compile(r"-?[0-9]+")
_FORMS = "MODEL.path[:in|:out][:CALL][/field], MODEL.output, MODEL.@features/N, adapters.NAME or batch.NAME"
ATTENTION = ("attentions", "queries", "keys", "values")
"""Landmarks of a transformer's attention, one for each layer."""
LISTS = ("features", "preactivations", "norms", *ATTENTION)
LANDMARKS = (*LISTS, "last_map", "penultimate", "classifier")
MODULES = ("norms", "classifier")
"""Landmarks that are modules, which have sides."""
Form = Literal["first", "second", "channels_last"]
Side = Literal["out", "in", "weight", "bias"]
SIDES: tuple[Side, ...] = get_args(Side)
PARAMETERS = ("weight", "bias")
ALL = "all"
"""The call that is the list of all."""


@dataclass(frozen=True, slots=True)
class Tap:
    """A place in one model: what leaves (``out``) or enters (``in``) the module at ``path`` in one of its calls.

    Its ``weight`` and ``bias`` are parameters, which belong to no call. The empty path with ``out`` is the model's own
    output. ``call`` is None where the module runs once, and "all" for the list of what all calls give. A path that
    begins with ``@`` is a landmark, whose module only the model tells: ``@features`` (all of them), ``@features/1``.
    ``form`` is what a landmark takes of the value: its first tensor, its second item, or the feature map (B, H, W, C)
    that it is, as (B, C, H, W).
    """

    path: str
    side: Side = "out"
    call: int | Literal["all"] | None = None
    form: Form = "first"

    @property
    def is_parameter(self) -> bool:
        """Whether it is a module's parameter, and no part of a batch."""
        return self.side in PARAMETERS

    @property
    def is_landmark(self) -> bool:
        """Whether only the model tells which module it is."""
        return self.path.startswith("@")

    def __str__(self) -> str:
        if self == Tap(""):
            return "output"
        if self.is_landmark and self.side != "out":
            name, slash, number = self.path.partition("/")
            return f"{name}:{self.side}{slash}{number}"
        plain = self.side == "out" and (self.path != "output" or self.call is not None)
        return f"{self.path}{'' if plain else f':{self.side}'}{'' if self.call is None else f':{self.call}'}"


@dataclass(frozen=True, slots=True)
class Wire:
    """A parsed wire. ``root`` is a model, and then there is a ``tap``, or ``adapters`` or ``batch``.

    ``path`` is what stands between the root and the fields: an adapter's name, say.
    """

    root: str
    path: str
    tap: Tap | None = None
    fields: tuple[Field, ...] = ()

    def __str__(self) -> str:
        return "/".join([f"{self.root}.{self.tap or self.path}", *map(str, self.fields)])


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a module was called with, where that is more than one positional argument. :func:`pick` goes into it."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


def config_error(message: str, hint: str | None = None) -> ConfigError:
    """The error of one problem, to whose place the caller may add."""
    return ConfigError(ConfigProblem(message, hint=hint))


def parse_wire(text: str, models: Collection[str], adapters: Collection[str] = ()) -> Wire:
    """The wire that ``text`` writes. Whether its module exists is not looked at.

    Raises ConfigError with one problem, whose hint says what to write, where the grammar or a name is wrong.
    """
    if not isinstance(text, str) or not text or text.split() != [text]:
        raise config_error(f"{text!r} is not a wire", f"write {_FORMS}, without spaces")
    head, *after = text.split("/")
    if "" in after:
        raise config_error(f"wire {text!r} has an empty field after '/'", f"write {head}/NAME, {head}/0 or {head}")
    root, _, rest = head.partition(".")
    _check_root(text, root, [*models, "adapters", "batch"], adapters)
    if not rest:
        missing = f"{root}.output" if root in models else f"{root}.NAME"
        raise config_error(f"wire {text!r} names nothing in {root!r}", f"write {'/'.join([missing, *after])}")
    inside = tuple(int(field) if _NUMBER.fullmatch(field) else field for field in after)
    if root in models and rest.startswith("@"):
        return _landmark_wire(text, root, rest, inside)
    if root in models:
        tap = parse_tap(rest, text, root)
        return Wire(root, tap.path or "output", tap, inside)
    if ":" in rest:
        hint = f"write {'/'.join([head.split(':')[0], *after])}"
        raise config_error(f"wire {text!r}: ':' selects a side or a call of a module, and this is not a module", hint)
    if root == "adapters" and rest not in adapters:
        raise config_error(f"wire {text!r}: there is no adapter {rest!r}", did_you_mean(rest, sorted(adapters)))
    return Wire(root, rest, None, inside)


def _check_root(text: str, root: str, models: list[str], adapters: Collection[str]) -> None:
    if root in models:
        return
    model = re.split(r"[:\[]", root)[0]
    if model in models:
        after = root[len(model) :].strip(":[]")
        submodule = "output" if after in ("", "in", "out") or _NUMBER.fullmatch(after) else after
        raise config_error(f"wire {text!r}: after {model!r} comes a '.'", f"write {model}.{submodule}")
    hint = f"did you mean 'adapters.{root}'?" if root in adapters else did_you_mean(root, models)
    raise config_error(f"wire {text!r}: there is no model {root!r}", hint)


def _landmark_wire(text: str, root: str, rest: str, inside: tuple[Field, ...]) -> Wire:
    name, colon, mark = rest[1:].partition(":")
    if name not in LANDMARKS:
        hint = did_you_mean(f"@{name}", [f"@{landmark}" for landmark in (*LANDMARKS, "logits")])
        raise config_error(f"wire {text!r}: there is no landmark @{name}", hint)
    if colon and not (name in MODULES and mark in SIDES):
        marks = f"only @{' and @'.join(MODULES)} have a side: :{', :'.join(SIDES)}"
        raise config_error(f"wire {text!r}: {marks}", f"write {root}.@{name}")
    number = inside[0] if name in LISTS and inside and isinstance(inside[0], int) else None
    if name in LISTS and inside and number is None:
        raise config_error(f"wire {text!r}: @{name} are numbered", f"write {root}.@{name}/0 or {root}.@{name}/-1")
    path = f"@{name}" if number is None else f"@{name}/{number}"
    side: Side = next((side for side in SIDES if side == mark), "out")
    return Wire(root, path, Tap(path, side), inside if number is None else inside[1:])


def parse_tap(rest: str, text: str = "", root: str = "MODEL") -> Tap:
    """The place that ``rest`` writes, which follows ``root`` in the wire ``text``; ConfigError for the grammar."""
    text = text or f"{root}.{rest}"
    path, *marks = rest.split(":")
    parts = re.split(r"[.\[\]]", path)
    if "" in parts or "[" in path:
        flaw = "brackets" if "[" in path else "an empty part between dots"
        raise config_error(f"wire {text!r} has {flaw}", f"write {root}.{'.'.join(filter(None, parts)) or 'output'}")
    if path == "output" and not marks:
        return Tap("")
    side: Side = next((side for side in SIDES if marks and side == marks[0]), "out")
    if marks and marks[0] in SIDES:
        marks.pop(0)
    call: int | Literal["all"] | None = None
    if marks and (marks[0] == ALL or _NUMBER.fullmatch(marks[0])):
        mark = marks.pop(0)
        call = "all" if mark == ALL else int(mark)
    if call is not None and side in PARAMETERS:
        raise config_error(f"wire {text!r}: a parameter belongs to no call", f"write {root}.{path}:{side}")
    if marks:
        raise _wrong_mark(text, f"{root}.{path}", marks[0], call)
    return Tap(path, side, call)


def _wrong_mark(text: str, head: str, mark: str, call: int | str | None) -> ConfigError:
    if mark in ("in", "out") and call is not None:
        return config_error(f"wire {text!r}: the side comes before the call", f"write {head}:{mark}:{call}")
    hint = "write :in or :out, then the number of a call, such as :0 or :-1, or :all"
    if meant := nearest(mark, ["in", "out", "input", "output"]):
        hint = f"did you mean {':in' if meant.startswith('in') else ':out'}?"
    return config_error(f"wire {text!r}: ':{mark}' is neither a side nor a call", hint)


def pick(value: Any, fields: Sequence[Field] = ()) -> Any:
    """Go from ``value`` into tuples and lists (int), mappings (key) and dataclasses (name), field after field.

    Into :class:`Inputs`, a name chooses a keyword argument and an int a positional one; where there is one positional
    argument, it is the value, and an int goes into it. Raises ConfigError that lists what is there.
    """
    if isinstance(value, Inputs):
        value, fields = _enter_inputs(value, fields)
    for depth, field in enumerate(fields):
        try:
            value = _enter(value, field)
        except LookupError:
            there = field_names(value)
            where = "/".join(map(str, fields[:depth]))
            held = f"{f'/{where}' if where else 'the value'} is {describe_shapes(value)}"
            hint = did_you_mean(str(field), there) if there else "leave the field out"
            raise config_error(f"there is no field {str(field)!r}: {held}", hint) from None
    return value


def _enter_inputs(value: Inputs, fields: Sequence[Field]) -> tuple[Any, Sequence[Field]]:
    first = fields[0] if fields else None
    if isinstance(first, str) and first in value.kwargs:
        return value.kwargs[first], fields[1:]
    if len(value.args) == 1:
        return value.args[0], fields
    if isinstance(first, int) and -len(value.args) <= first < len(value.args):
        return value.args[first], fields[1:]
    there = [f"/{field}" for field in (*range(len(value.args)), *value.kwargs)]
    flaw = "are not one positional argument" if first is None else f"have no {str(first)!r}"
    raise config_error(
        f"the inputs {describe_shapes(value)} {flaw}", f"choose one of: {', '.join(there)}" if there else None
    )


def _enter(value: Any, field: Field) -> Any:
    if isinstance(value, Mapping):
        return value[field] if field in value else value[str(field)]
    if isinstance(value, (tuple, list)) and isinstance(field, int):
        return value[field]
    if field not in field_names(value):
        raise LookupError(field)
    return getattr(value, str(field))


def field_names(value: Any) -> list[str]:
    """The fields that a wire can name in ``value``: keys, names and numbers of items; none in a tensor."""
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    if isinstance(value, (tuple, list)):
        return [*getattr(value, "_fields", ()), *map(str, range(len(value)))]
    return [field.name for field in fields(value)] if is_dataclass(value) else []


def describe_shapes(value: Any) -> str:
    """The shapes nested in ``value``: ``(8, 3, 32, 32)``, ``[(8, 5), {mask: (8, 5)}]``; other things by their class."""
    if hasattr(value, "untyped_storage"):
        return str(tuple(value.shape))
    if isinstance(value, Inputs):
        named = [f"{key}={describe_shapes(item)}" for key, item in value.kwargs.items()]
        return ", ".join([*map(describe_shapes, value.args), *named])
    if is_dataclass(value) and not isinstance(value, (type, Mapping)):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe_shapes(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(describe_shapes, value))}]"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__
