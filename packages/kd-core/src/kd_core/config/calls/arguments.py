"""Do the arguments of a call fit its signature?"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from kd_core.config.syntax.lazy import Call
from kd_core.errors import did_you_mean
from kd_core.ranges import read_signature
from kd_core.synonyms import SYNONYMS, listed

_REST = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class ArgumentFault(NamedTuple):
    """A problem with an argument: where it is below the call (``()``: the call itself)."""

    where: tuple[str | int, ...]
    message: str
    hint: str | None = None


def check_arguments(call: Call, obj: Callable[..., Any], supplied: Sequence[str] = ()) -> list[ArgumentFault]:
    """Every argument of ``call`` that ``obj`` does not take, and those it lacks.

    ``supplied`` are names of parameters the builder gives (an optimiser's ``params``); see :func:`split`.
    Nothing is found in a callable that has no signature to read.
    """
    signature = signature_of(obj)
    if signature is None:
        return []
    leading, named = split(signature, supplied)
    params = list(signature.parameters.values())
    positional = [p.name for p in params if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    filled = positional[: len(leading) + len(call.args)]
    faults = _too_many(call, params, len(positional) - len(leading))
    for name in call.kwargs:
        if name in leading or name in named:
            faults.append(ArgumentFault((name,), f"{name!r} is supplied to {call.target} already", "remove it"))
        elif fault := _keyword(call, name, params, {*filled, *named}):
            faults.append(fault)
    filled_names = {*filled, *named, *call.kwargs}
    missing = [
        repr(p.name) for p in params if p.name not in filled_names and p.default is p.empty and p.kind not in _REST
    ]
    if missing:
        noun = "parameter" if len(missing) == 1 else "parameters"
        faults.append(ArgumentFault((), f"{call.target} is missing the required {noun} {', '.join(missing)}"))
    return faults


def _too_many(call: Call, params: Sequence[inspect.Parameter], most: int) -> list[ArgumentFault]:
    if len(call.args) <= most or any(p.kind is p.VAR_POSITIONAL for p in params):
        return []
    few = f"at most {most} positional argument{'s' * (most != 1)}" if most > 0 else "no positional arguments"
    return [ArgumentFault((max(most, 0),), f"{call.target} takes {few}, not {len(call.args)}")]


def _keyword(
    call: Call, name: str, params: Sequence[inspect.Parameter], taken: Collection[str]
) -> ArgumentFault | None:
    """What is wrong with giving ``name`` by keyword."""
    takes = [p.name for p in params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if name in takes and name not in taken:
        return _mistyped(call, name, next(p for p in params if p.name == name))
    if name in takes:
        return ArgumentFault((name,), f"{call.target} gets {name!r} twice", "it is also given by position")
    if any(p.kind is p.VAR_KEYWORD for p in params):
        return None
    if any(p.name == name and p.kind is p.POSITIONAL_ONLY for p in params):
        return ArgumentFault((name,), f"{call.target} takes {name!r} only by position")
    free = [key for key in takes if key not in taken]
    near = listed(SYNONYMS["call"], name)
    hint = f"did you mean {near!r}?" if near in free else did_you_mean(name, free)
    return ArgumentFault((name,), f"{call.target} has no parameter {name!r}", hint)


def _mistyped(call: Call, name: str, param: inspect.Parameter) -> ArgumentFault | None:
    """Text or true where the annotation asks for a number. All else is left to the callee."""
    value = call.kwargs[name]
    members = typing.get_args(param.annotation) or (param.annotation,)
    names = {getattr(member, "__name__", "") for member in members}
    numbers = bool(names & {"int", "float"}) and names <= {"int", "float", "Tensor", "NoneType"}
    if numbers and isinstance(value, (str, bool)):
        shown = repr(value) if isinstance(value, str) else str(value).lower()
        return ArgumentFault((name,), f"must be a number, not {shown}")
    if names <= {"bool", "NoneType"} and "bool" in names and isinstance(value, str):
        return ArgumentFault((name,), f"must be true or false, not {value!r}")
    return None


def signature_of(obj: Callable[..., Any]) -> inspect.Signature | None:
    """None where there is none to read, as with many built-in functions."""
    try:
        return read_signature(obj)
    except (ValueError, TypeError):
        return None


def split(signature: inspect.Signature | None, supplied: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which supplied values go first by position, and which by keyword.

    A name goes by keyword where the signature has it at another place than next in line.
    """
    names = list(signature.parameters) if signature else []
    leading: list[str] = []
    for name in supplied:
        if name not in names or names.index(name) == len(leading):
            leading.append(name)
    return leading, [name for name in supplied if name not in leading]
