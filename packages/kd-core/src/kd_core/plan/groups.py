"""Groups: several models that a config writes under one name, as ``copies: 3`` of one or as a list of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kd_core.config.schema import ModelSpec, Path
from kd_core.data.batch import STUDENT


@dataclass(frozen=True)
class ModelEntry:
    """What a config writes for ``names``: one model, or as many copies as there are names."""

    names: tuple[str, ...]
    path: Path
    value: Any


def group_of(name: str, value: Any) -> tuple[str, ...]:
    """The names of the models in a group, ``NAME_1``, ``NAME_2``, ...; none where ``value`` is a single model.

    The student is one model whatever is written.
    """
    if name == STUDENT:
        return ()
    number = len(value) if isinstance(value, list) else _copies(value)
    return tuple(f"{name}_{position}" for position in range(1, number + 1))


def _copies(value: Any) -> int:
    copies = value.get("copies") if isinstance(value, Mapping) else None
    return copies if isinstance(copies, int) and not isinstance(copies, bool) else 0


def groups_of(models: Any) -> dict[str, tuple[str, ...]]:
    """The groups of a config's ``models:`` by name."""
    named = models.items() if isinstance(models, Mapping) else ()
    return {name: names for name, value in named if (names := group_of(name, value))}


def entries(name: str, value: Any) -> Iterator[ModelEntry]:
    """What is written at one name of ``models:``, model by model."""
    path: Path = ("models", name)
    if isinstance(value, list) and name != STUDENT:
        for position, (member, item) in enumerate(zip(group_of(name, value), value, strict=True)):
            yield ModelEntry((member,), (*path, position), item)
    else:
        yield ModelEntry(group_of(name, value) or (name,), path, value)


def anew(spec: ModelSpec, others: Iterable[ModelSpec]) -> ModelSpec:
    """The same model with calls of its own: what a call makes is shared by all who hold that call.

    What it shares with ``others``, whose module an alias names, stays shared.
    """
    kept = {id(other.call): other.call for other in others if other.call is not None and other.call is not spec.call}
    return copy.deepcopy(spec, kept)
