"""Do the arguments of a call fit its signature?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kd_core.config.lazy import Call
from kd_core.errors import did_you_mean


class Fault(NamedTuple):
    """A problem with an argument: where it is below the call (``()``: the call itself)."""

    where: tuple[str | int, ...]
    message: str
    hint: str | None = None


def bind(call: Call, obj: Callable[..., Any], supplied: Sequence[str] = ()) -> list[Fault]:
    """Every argument of ``call`` that ``obj`` does not take, and those it lacks.

    ``supplied`` are names of parameters the builder gives (an optimiser's ``params``); see :func:`split`.
    Nothing is found in a callable that has no signature to read.
    """
    signature = signature_of(obj)
    if signature is None:
        return []
    leading, named = split(signature, supplied)
    params = signature.parameters
    slots = [p for p in params.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    kinds = {p.kind for p in params.values()}
    given = len(leading) + len(call.args)
    filled = {p.name for p in slots[:given]}
    faults = []
    if given > len(slots) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        most = len(slots) - len(leading)
        few = f"at most {most} positional argument{'s' * (most != 1)}" if most > 0 else "no positional arguments"
        faults.append(Fault((max(most, 0),), f"{call.target} takes {few}, not {len(call.args)}"))
    takes = [p.name for p in params.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    free = [name for name in takes if name not in filled and name not in named]
    for name in call.kwargs:
        if name in leading or name in named:
            faults.append(Fault((name,), f"{name!r} is supplied to {call.target} already", "remove it"))
        elif name in takes and name in filled:
            faults.append(Fault((name,), f"{call.target} gets {name!r} twice", "it is also given by position"))
        elif name not in takes and inspect.Parameter.VAR_KEYWORD not in kinds:
            faults.append(Fault((name,), f"{call.target} takes no {name!r}", did_you_mean(name, free)))
    present = {*filled, *named, *(name for name in call.kwargs if name in takes)}
    missing = [
        p.name
        for p in params.values()
        if p.default is p.empty and p.name not in present and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing:
        faults.append(Fault((), f"{call.target} needs {', '.join(map(repr, missing))}"))
    return faults


def signature_of(obj: Callable[..., Any]) -> inspect.Signature | None:
    """None where there is none to read, as with many built-in functions."""
    try:
        return inspect.signature(obj)
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
