"""What a config's tags stand for. All inert: nothing is imported or called before a Builder is asked to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from kd_core.errors import Mark

RUN_NAMES = ("steps", "steps_per_epoch", "batch_size")
"""What ``!run`` can ask for in every task, beside the values of the task's own (``Task.run_values``)."""


@dataclass
class Lazy:
    """A value to be built. Two are equal where they say the same, wherever they were written.

    ``mark`` is where the tag stands (None for one made in code), ``places`` where its keyword names
    and positional arguments stand.
    """

    mark: Mark | None = field(default=None, compare=False, repr=False, kw_only=True)
    places: Mapping[str | int, Mark] = field(default_factory=dict, compare=False, repr=False, kw_only=True)

    def parts(self) -> dict[str | int, Any]:
        """The values inside, under the names that paths give them."""
        return {}


@dataclass
class Call(Lazy):
    """``!call:target {kwargs}``, ``!call:target [args]``."""

    target: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str | int, Any]:
        """The positional arguments by position and the others by name."""
        parts: dict[str | int, Any] = dict(enumerate(self.args))
        return parts | self.kwargs


@dataclass
class Get(Lazy):
    """``!get:target``: the object of that name, not called."""

    target: str


@dataclass
class RunValue(Lazy):
    """``!run name``: a value that is known when the data are read."""

    name: str


@dataclass
class Text(Lazy):
    """``!join``, ``!pathjoin``, ``!expanduser`` or ``!abspath`` of items that are not all plain."""

    how: str
    items: list[Any]

    def parts(self) -> dict[str | int, Any]:
        """The items by position."""
        return dict(enumerate(self.items))


@dataclass
class GetAttr(Lazy):
    """``!getattr:name [obj, default]``; without a default (``...``) a missing attribute is an error."""

    obj: Any
    name: str
    default: Any = ...

    def parts(self) -> dict[str | int, Any]:
        """The object, and the default where there is one."""
        return {"obj": self.obj} if self.default is ... else {"obj": self.obj, "default": self.default}


@dataclass
class SetAttr(Lazy):
    """``!setattr:name [obj, value]``: sets, and stands for ``obj``."""

    obj: Any
    name: str
    value: Any

    def parts(self) -> dict[str | int, Any]:
        """The object and the value to set."""
        return {"obj": self.obj, "value": self.value}


@dataclass
class Item(Lazy):
    """``!item [data, key]``: ``data[key]``."""

    data: Any
    key: Any

    def parts(self) -> dict[str | int, Any]:
        """The container and the key."""
        return {"data": self.data, "key": self.key}


@dataclass
class CallMethod(Lazy):
    """``!call_method:method {obj, args, kwargs, returns_obj}``: the result, or ``obj`` where ``returns_obj``."""

    obj: Any
    method: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    returns_obj: bool = False

    def parts(self) -> dict[str | int, Any]:
        """The object and the arguments of its method."""
        return {"obj": self.obj, "args": self.args, "kwargs": self.kwargs}


def has_call(value: Any) -> bool:
    """Whether a call stands anywhere in a value."""
    if isinstance(value, Lazy):
        return True
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return any(has_call(item) for item in items)


def changed(value: Any, change: Callable[[Lazy], Any]) -> Any:
    """``value`` with ``change`` of every Lazy in it in its place, inner ones first; an alias of one stays one."""
    done: dict[int, Any] = {}

    def walk(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: walk(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [walk(inner) for inner in item]
        if not isinstance(item, Lazy):
            return item
        if id(item) not in done:
            inner = {part.name: walk(getattr(item, part.name)) for part in fields(item) if part.compare}
            done[id(item)] = change(replace(item, **inner))
        return done[id(item)]

    return walk(value)
