"""From plain values to the schema, piece by piece, so that one mistake hides no other.

:class:`Validator` collects the problems. What is sound about a piece goes on to be checked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from kd_core.config import Document, Lazy, dump
from kd_core.config.hints import key_hint, meant, place_of
from kd_core.config.schema import Path
from kd_core.errors import ConfigError, ConfigProblem, KDError, nearest
from kd_core.synonyms import SHAPES, VALUES, listed

M = TypeVar("M", bound=BaseModel)


class ValidationFault(NamedTuple):
    """Something wrong at ``path`` (with its ``key``, not its value) and the schema's fields that suffer."""

    path: Path
    message: str
    hint: str | None = None
    key: bool = False
    fields: tuple[str, ...] = ()


class Piece(NamedTuple):
    """A part of a document that is validated by itself: its path and the document's data, both for hints."""

    path: Path
    document: Mapping[str, Any]


class Validator:
    """Validates pieces of a document and keeps what is wrong with them."""

    def __init__(self, document: Document, root: str = "") -> None:
        self.document = document
        self.root: Path = (root,) if root else ()
        """What the document is, where it is no config: the name of its place in :mod:`kd_core.synonyms`."""
        self.problems: list[ConfigProblem] = []

    def report(self, path: Path, message: str, hint: str | None = None, *, key: bool = False) -> None:
        """Keep a problem at ``path``."""
        self.problems.append(self.document.problem(path, message, hint, key=key))

    def unknown_key(self, path: Path, message: str, keys: Sequence[str]) -> None:
        """Keep that there is no such key at ``path``; ``keys`` are those that may stand there."""
        self.report(path, message, key_hint((*self.root, *path), keys, self.document.data), key=True)

    def add_error(self, path: Path, error: KDError) -> None:
        """Keep an error whose own places, where it knows any, lie below ``path``."""
        self.problems += map(self.document.place, error.at(*path).problems)

    def validate(self, schema: type[M], value: Any, path: Path = ()) -> M | None:
        """``value`` as ``schema``, or None with its problems kept."""
        model, lost = self.validate_partial(schema, value, path)
        return None if lost else model

    def validate_partial(
        self, schema: type[M], value: Any, path: Path = (), **instead: Any
    ) -> tuple[M | None, frozenset[str]]:
        """``value`` as ``schema`` without the keys that are wrong, and the names of the fields this concerns.

        ``instead`` holds stand-ins for required ones. None where nothing can be made of it.
        """
        if not isinstance(value, Mapping):
            self.report(path, f"must be a mapping, not {show_value(value)}", SHAPES.get(place_of(path)))
            return None, frozenset(schema.model_fields)
        try:
            return schema.model_validate(dict(value)), frozenset()
        except ValidationError as error:
            faults = explain(error, schema, value, Piece((*self.root, *path), self.document.data))
        for fault in faults:
            self.report((*path, *fault.path), fault.message, fault.hint, key=fault.key)
        lost = frozenset(name for fault in faults for name in fault.fields)
        sound = {key: item for key, item in value.items() if key not in lost}
        try:
            return schema.model_validate({**{key: instead[key] for key in lost & set(instead)}, **sound}), lost
        except ValidationError:
            return None, lost


@contextmanager
def locate_errors(document: Document) -> Iterator[None]:
    """Raise the errors of the block anew with the place that their path has in the document."""
    try:
        yield
    except KDError as error:
        raise ConfigError(map(document.place, error.problems)) from error


def explain(error: ValidationError, schema: type[BaseModel], value: Any, piece: Piece) -> list[ValidationFault]:
    """What pydantic complains of, each place once and unknown keys first."""
    items = error.errors(include_url=False)
    faults = _unknown(items, schema, value, piece)
    unknown = {fault.path[:-1]: fault.fields for fault in faults}
    wants: dict[Path, list[Any]] = {}
    for item in items:
        where = _real_path(item["loc"], value)
        if item["type"] == "missing":
            name = str(item["loc"][-1])
            if name in unknown.get(where, ()):
                continue  # the unknown key is meant to be this one
            parent = _follow(value, where)
            near = _stands_for(name, parent, place_of((*piece.path, *where))) if isinstance(parent, Mapping) else None
            shape = SHAPES.get(place_of((*piece.path, *where)))
            hint = f"is {near!r} meant to be {name!r}?" if near else shape
            faults.append(ValidationFault(where, f"missing required key {name!r}", hint, fields=_top(where) or (name,)))
        elif item["type"] == "value_error":
            reason = item["ctx"]["error"].args[0]
            error_of_value = reason if isinstance(reason, KDError) else KDError(str(reason))
            for problem in error_of_value.problems:
                below = problem.path.split(".") if problem.path else []
                faults.append(
                    ValidationFault((*where, *below), problem.message, problem.hint, problem.at_key, _top(where))
                )
        elif item["type"] != "extra_forbidden":
            wants.setdefault(where, []).append(item)
    told = {*unknown, *(fault.path for fault in faults if not fault.key)}
    for where, expectations in wants.items():
        if where not in told and not any(other[: len(where)] == where for other in {*told, *wants} - {where}):
            wrong = _follow(value, where)
            message = f"must be {_all_wanted(expectations)}, not {show_value(wrong)}"
            place = place_of((*piece.path, *where))
            hint = _word_meant(place, wrong, expectations) or SHAPES.get(place) or _in_a_list(wrong, expectations)
            faults.append(ValidationFault(where, message, hint, fields=_top(where)))
    return faults


def _word_meant(place: str, value: Any, items: Sequence[Any]) -> str | None:
    """A hint where a misspelt word, or one of other tools, stands for one of those that are expected."""
    if isinstance(value, str) and (word := listed(VALUES.get(place, {}), value)):
        return f"did you mean {word!r}?"
    expected = " ".join(item["ctx"]["expected"] for item in items if item["type"] == "literal_error")
    near = nearest(value, re.findall(r"'([^']*)'", expected)) if isinstance(value, str) else None
    return f"did you mean {near!r}?" if near else None


def _in_a_list(value: Any, items: Sequence[Any]) -> str | None:
    """A hint where one thing stands in place of a list of such."""
    single = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    return f"write `[{value}]`" if single and all(item["type"] == "list_type" for item in items) else None


def _stands_for(name: str, keys: Iterable[Any], place: str) -> str | None:
    """The one of the keys written at a place that is meant to be ``name``, by spelling or as a synonym."""
    words = list(map(str, keys))
    return nearest(name, words) or next((word for word in words if meant(place, word, [name])), None)


def _unknown(items: Sequence[Any], schema: type[BaseModel], value: Any, piece: Piece) -> list[ValidationFault]:
    faults = []
    for item in items:
        if item["type"] == "extra_forbidden":
            where = _real_path(item["loc"], value)
            name, fields = str(where[-1]), _fields_at(schema, where[:-1])
            path = (*piece.path, *where)
            near = meant(place_of(path[:-1]), name, fields)
            hint = key_hint(path, fields, piece.document)
            faults.append(
                ValidationFault(where, f"unknown key {name!r}", hint, True, (*_top(where), *([near] if near else [])))
            )
    return faults


def _top(where: Path) -> tuple[str, ...]:
    return (str(where[0]),) if where else ()


_TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "a string",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "dataclass_exact_type": "a !call",
    "dataclass_type": "a !call",
    "none_required": "null",
    "string_pattern_mismatch": "a plain name of letters, digits and _ . + -",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def wanted_of(items: Sequence[Any]) -> str:
    """What a value must be, by pydantic's complaints about it."""
    return " or ".join(dict.fromkeys(map(_wanted, items)))


def _all_wanted(items: Sequence[Any]) -> str:
    """The same, where a union's other members may be left out: the value has the type of one and breaks its bounds."""
    bounded = [error for error in items if error["type"] in _BOUNDS or error["type"] in ("too_short", "too_long")]
    numbers = [error for error in items if error["type"] in ("int_type", "int_from_float")]
    return wanted_of([*numbers, *bounded] if bounded else items)


def _wanted(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        bound = context[key]
        return f"{words} {int(bound) if bound == int(bound) else bound}"
    if kind in ("too_short", "too_long"):
        words, key = ("at least", "min_length") if kind == "too_short" else ("at most", "max_length")
        what = "mapping" if context.get("field_type") == "Dictionary" else "list"
        return f"a {what} of {words} {context[key]}"
    if kind == "literal_error":
        return f"one of {context['expected']}"
    return _TYPES.get(kind) or item["msg"].removeprefix("Input should be ").rstrip(".")


def show_value(value: Any) -> str:
    """A value in a message: short, and as YAML writes it."""
    if isinstance(value, Mapping):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    odd = value is None or isinstance(value, (bool, Lazy)) or (isinstance(value, float) and not math.isfinite(value))
    text = dump(value).partition("\n")[0] if odd else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _real_path(location: Sequence[Any], value: Any) -> Path:
    """Pydantic's location without the names of union members, which are not in the file."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
        elif position == len(location) - 1:
            break
        else:
            continue
        path.append(part)
    return tuple(path)


def _follow(value: Any, path: Iterable[Any]) -> Any:
    for part in path:
        value = value[part]  # the path was found in this very value
    return value


def _fields_at(schema: Any, path: Path) -> list[str]:
    """The keys the schema knows at a path: its own, or those of the nested schemas."""
    schemas = [schema]
    for part in path:
        if isinstance(part, str):
            fields = [schema.model_fields[part].annotation for schema in schemas if part in schema.model_fields]
            schemas = [nested for field in fields for nested in _schemas_in(field)]
    return [name for schema in schemas for name in schema.model_fields]


def _schemas_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [nested for inner in getattr(annotation, "__args__", ()) for nested in _schemas_in(inner)]
