"""The tree a config is while it is loaded: plain containers whose edges carry places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kd_core.config.syntax.lazy import Call, CallMethod, Get, GetAttr, Item, Lazy, RunValue, SetAttr, Text
from kd_core.errors import Mark

_TAGS: dict[type[Lazy], str] = {
    Call: "!call",
    CallMethod: "!call_method",
    Get: "!get",
    GetAttr: "!getattr",
    Item: "!item",
    RunValue: "!run",
    SetAttr: "!setattr",
    Text: "!join",
}


@dataclass(eq=False, slots=True)
class Tagged:
    """A tag with its content. Aliases share one, so that it becomes one Lazy and is built once.

    ``fixed`` are fields of the Lazy that are plain, ``slots`` its parts under the names paths give them:
    integers are positional arguments.
    """

    kind: type[Lazy]
    fixed: dict[str, Any]
    slots: dict[str | int, Slot]

    def name(self, key: str | int) -> str | int:
        """The part that a path's component names; positional arguments also count from the end."""
        index = as_index(key, sum(isinstance(name, int) for name in self.slots))
        return key if index is None else index


@dataclass(frozen=True, eq=False, slots=True)
class Slot:
    """One edge: a value (scalar, ``list[Slot]``, ``dict[str, Slot]`` or Tagged), where it and its key stand,
    and how large and deep it is with all aliases written out."""

    value: Any
    mark: Mark
    key: Mark | None = None
    size: int = 1
    depth: int = 0

    @classmethod
    def of(cls, value: Any, mark: Mark, key: Mark | None = None) -> Slot:
        """A slot with the size and the depth of its value."""
        size, depth = 1, -1
        for child in children(value):
            size += child.size
            depth = max(depth, child.depth)
        return cls(value, mark, key, size, depth + 1)


def children(value: Any) -> Iterator[Slot]:
    """The edges below a value."""
    if isinstance(value, Tagged):
        value = value.slots
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def child(value: Any, key: str | int) -> Slot | None:
    """The edge below ``value`` that a path's component names. Indices may be text and negative."""
    if isinstance(value, Tagged):
        return value.slots.get(value.name(key))
    if isinstance(value, dict):
        return value.get(str(key))
    if isinstance(value, list):
        index = as_index(key, len(value))
        return None if index is None else value[index]
    return None


def as_index(key: str | int, length: int) -> int | None:
    """``key`` as a place in a list of that length, or None."""
    try:
        index = int(key)
    except ValueError:
        return None
    return index % length if -length <= index < length else None


def merge(base: Slot, over: Slot) -> Slot:
    """``over`` on top of ``base``: mappings merge recursively, all else is replaced whole."""
    if not (isinstance(base.value, dict) and isinstance(over.value, dict)):
        return over
    merged = dict(base.value)
    for key, slot in over.value.items():
        merged[key] = merge(merged[key], slot) if key in merged else slot
    return Slot.of(merged, over.mark, over.key)


def merge_configs(base: Slot, over: Slot) -> Slot:
    """A config on top of another one. Its new stages stand before the next one that both have, or at the end."""
    merged = merge(base, over)
    below, above = (child(slot.value, "stages") for slot in (base, over))
    if below is None or above is None or not (isinstance(below.value, dict) and isinstance(above.value, dict)):
        return merged
    order, new = list(below.value), []
    for name in above.value:
        if name not in below.value:
            new.append(name)
        else:
            order[order.index(name) : order.index(name)] = new
            new = []
    stages = merged.value["stages"]
    ordered = {name: stages.value[name] for name in [*order, *new]}
    return Slot.of({**merged.value, "stages": Slot.of(ordered, stages.mark, stages.key)}, merged.mark, merged.key)


def set_at(slot: Slot, path: tuple[str, ...], value: Slot) -> Slot:
    """The tree with the value at a path, whose containers are copied."""
    if not path:
        return Slot.of(value.value, value.mark, slot.key)
    inside, key = slot.value, path[0]
    changed = set_at(child(inside, key) or Slot({}, slot.mark, slot.mark), path[1:], value)
    if isinstance(inside, Tagged):
        return Slot.of(
            Tagged(inside.kind, inside.fixed, {**inside.slots, inside.name(key): changed}), slot.mark, slot.key
        )
    if isinstance(inside, list):
        index = as_index(key, len(inside)) or 0
        return Slot.of([*inside[:index], changed, *inside[index + 1 :]], slot.mark, slot.key)
    return Slot.of({**(inside if isinstance(inside, dict) else {}), key: changed}, slot.mark, slot.key)


def slot_at(slot: Slot | None, path: tuple[str, ...]) -> Slot | None:
    """The edge at a path of a tree; None where there is none."""
    for key in path:
        slot = None if slot is None else child(slot.value, key)
    return slot


def same(one: Slot, other: Slot) -> bool:
    """Whether two trees say the same."""
    first, second = one.value, other.value
    if type(first) is not type(second):
        return False
    if isinstance(first, Tagged):
        return (first.kind, first.fixed) == (second.kind, second.fixed) and same(
            Slot(first.slots, one.mark), Slot(second.slots, other.mark)
        )
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def items_of(slot: Slot | None) -> list[Slot]:
    """The items of a list, none of anything else."""
    return slot.value if slot is not None and isinstance(slot.value, list) else []


def dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def kind_of(value: Any) -> str:
    """What a value is, in a user's words."""
    if isinstance(value, Tagged):
        return f"a {_TAGS[value.kind]}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    names = {dict: "a mapping", list: "a list", str: "a string", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
