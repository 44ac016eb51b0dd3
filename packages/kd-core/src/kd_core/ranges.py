"""Ranges of hyperparameters, written once: as annotations in the signature of a loss, an adapter or a model.

The annotation ``PositiveFloat`` is checked when a config is planned and when the function is called, and is shown by
``list`` and in the docs.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Interval, Le, Lt

from kd_core.errors import KDError, nearest

PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
PositiveInt = Annotated[int, Ge(1)]
NonNegativeInt = Annotated[int, Ge(0)]
Probability = Annotated[float, Ge(0), Le(1)]
"""From 0 to 1, both included."""
Fraction = Annotated[float, Gt(0), Le(1)]
"""From 0, excluded, to 1, included: a part of a whole that is not empty."""
OpenFraction = Annotated[float, Gt(0), Lt(1)]
"""From 0 to 1, both excluded: a part of a whole that is neither empty nor all of it."""
Momentum = Annotated[float, Ge(0), Lt(1)]
"""From 0, included, to 1, excluded."""
NormOrder = Annotated[float, Ge(1)]
"""The order of a norm."""

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """What a value may be: within ``bounds``, or one of ``choices``. None is allowed where ``optional``."""

    bounds: tuple[Ge | Gt | Le | Lt, ...] = ()
    choices: tuple[Any, ...] = ()
    optional: bool = False

    def allows(self, value: Any) -> bool:
        """Whether ``value`` lies in the range. False for what cannot be compared with a number."""
        if value is None and self.optional:
            return True
        if self.choices and value not in self.choices:
            return False
        try:
            for test, limit in self._tests:
                if not test(value, limit):
                    return False
        except TypeError:
            return False
        return True

    @cached_property
    def _tests(self) -> tuple[tuple[Callable[[Any, Any], bool], Any], ...]:
        """Each bound's comparison: a loss is called every step."""
        return tuple((_TESTS[type(bound)], _limit(bound)) for bound in self.bounds)

    def hint(self, value: Any) -> str | None:
        """Which choice a mistyped value was probably meant to be."""
        near = nearest(value, map(str, self.choices)) if isinstance(value, str) else None
        return f"did you mean {near!r}?" if near else None

    @property
    def sign(self) -> str:
        """The range as it stands in a signature: ``> 0``, ``in [0, 1)``; empty for choices."""
        low, high = self._ends()
        if low and high:
            return self._interval(low, high)
        bound = low or high
        return f"{_SIGNS[type(bound)]} {_number(bound)}" if bound else ""

    def __str__(self) -> str:
        """The range as it stands in an error: ``greater than 0``, ``in [0, 1)``, ``'kl' or 'mse'``."""
        if self.choices:
            *first, last = map(repr, self.choices)
            return f"{', '.join(first)} or {last}" if first else last
        low, high = self._ends()
        if low and high:
            return self._interval(low, high)
        bound = low or high
        return f"{_WORDS[type(bound)]} {_number(bound)}" if bound else "anything"

    def _ends(self) -> tuple[Ge | Gt | None, Le | Lt | None]:
        low = next((bound for bound in self.bounds if isinstance(bound, (Ge, Gt))), None)
        return low, next((bound for bound in self.bounds if isinstance(bound, (Le, Lt))), None)

    def _interval(self, low: Ge | Gt, high: Le | Lt) -> str:
        opening, closing = "[" if isinstance(low, Ge) else "(", "]" if isinstance(high, Le) else ")"
        return f"in {opening}{_number(low)}, {_number(high)}{closing}"


_FIELDS: dict[type, str] = {Ge: "ge", Gt: "gt", Le: "le", Lt: "lt"}
_TESTS: dict[type, Callable[[Any, Any], bool]] = {
    Ge: operator.ge,
    Gt: operator.gt,
    Le: operator.le,
    Lt: operator.lt,
}
_SIGNS: dict[type, str] = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<"}
_WORDS: dict[type, str] = {Ge: "at least", Gt: "greater than", Le: "at most", Lt: "less than"}


def _limit(bound: Ge | Gt | Le | Lt) -> Any:
    return getattr(bound, _FIELDS[type(bound)])


def _number(bound: Ge | Gt | Le | Lt) -> str:
    limit = _limit(bound)
    return str(int(limit)) if limit == int(limit) else str(limit)


def range_of(annotation: Any) -> Range | None:
    """The range that an annotation gives, None where it gives none or is text that could not be resolved."""
    origin = get_origin(annotation)
    if origin is Annotated:
        bounds = tuple(bound for item in annotation.__metadata__ for bound in _bounds(item))
        return Range(bounds) if bounds else range_of(annotation.__origin__)
    if origin is Literal:
        return Range(choices=get_args(annotation))
    if origin in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        inner = range_of(members[0]) if len(members) == 1 else None
        return Range(inner.bounds, inner.choices, optional=True) if inner else None
    return None


def _bounds(item: Any) -> list[Ge | Gt | Le | Lt]:
    """The bounds that an item of ``Annotated`` stands for: one of annotated_types', or a ``Field`` of pydantic's."""
    if isinstance(item, (Ge, Gt, Le, Lt)):
        return [item]
    if isinstance(item, Interval):
        return [bound for bound in item if isinstance(bound, (Ge, Gt, Le, Lt))]
    return [bound for bound in getattr(item, "metadata", ()) if isinstance(bound, (Ge, Gt, Le, Lt))]


def read_signature(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a callable, with annotations as objects where all of them can be resolved.

    TypeError or ValueError where there is none to read, as with many built-in functions.
    """
    try:
        return inspect.signature(function, eval_str=True)
    except (NameError, AttributeError, SyntaxError, TypeError):  # annotations may be for type checkers only
        if sys.version_info >= (3, 14):  # where annotations are not evaluated before they are read
            from annotationlib import Format

            return inspect.signature(function, annotation_format=Format.FORWARDREF)
        return inspect.signature(function)


def ranges_of(function: Callable[..., Any]) -> dict[str, Range]:
    """The ranges of the parameters of ``function`` by name, those without one left out."""
    try:
        parameters = read_signature(function).parameters.values()
    except (TypeError, ValueError):
        return {}
    ranges = {parameter.name: range_of(parameter.annotation) for parameter in parameters}
    return {name: limits for name, limits in ranges.items() if limits is not None}


def checked(item: T) -> T:
    """``item``, a function or a class, whose calls raise a KDError where a value is out of its annotation's range.

    Whatever has no ranges is returned as it is. Registries apply it to all that is registered.
    """
    if inspect.isclass(item):
        initialise: Any = item.__init__
        if (guarded := _guarded(initialise)) is not initialise:
            setattr(item, "__init__", guarded)  # noqa: B010 - no type checker lets a method be assigned
        return item
    return _guarded(item) if inspect.isfunction(item) else item


def _guarded(function: Any) -> Any:
    if not inspect.isfunction(function) or hasattr(function, "__ranges__") or not (ranges := ranges_of(function)):
        return function
    names = [parameter.name for parameter in inspect.signature(function).parameters.values() if _by_position(parameter)]
    positional = not ranges.keys().isdisjoint(names)
    accepted: dict[str, Any] = {}

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        _require(ranges, kwargs, accepted)
        if positional:
            _require(ranges, dict(zip(names, args, strict=False)), accepted)
        return function(*args, **kwargs)

    call.__ranges__ = ranges  # type: ignore[attr-defined]
    return call


def _by_position(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)


def _require(ranges: Mapping[str, Range], values: Mapping[str, Any], accepted: dict[str, Any]) -> None:
    """KDError where a value is out of its range. ``accepted`` keeps each name's last: a loss is called every step."""
    for name, limits in ranges.items():
        value = values.get(name, accepted)
        if value is accepted or value is accepted.get(name, accepted):
            continue
        if not limits.allows(value):
            raise KDError(f"{name} must be {limits}, not {value!r}", hint=limits.hint(value))
        accepted[name] = value
