"""Tree of slots -> plain data and Lazy values, texts joined."""

from __future__ import annotations

import os
from typing import Any

from kd_core.config.syntax.lazy import Call, CallMethod, Lazy, Text
from kd_core.config.syntax.tree import Slot, Tagged, dotted
from kd_core.errors import ConfigError, ConfigProblem, Mark


def to_data(root: Slot) -> Any:
    """The data of a tree. One Tagged becomes one Lazy wherever it is named. ConfigError where texts do not join."""
    reader = _Converter()
    data = reader.value(root, ())
    if reader.problems:
        raise ConfigError(reader.problems)
    return data


class _Converter:
    def __init__(self) -> None:
        self.lazies: dict[int, Any] = {}
        self.problems: list[ConfigProblem] = []

    def value(self, slot: Slot, path: tuple[str | int, ...]) -> Any:
        """The plain or lazy value of a slot; one object for all aliases of a tagged value."""
        value = slot.value
        if isinstance(value, dict):
            return {key: self.value(below, (*path, key)) for key, below in value.items()}
        if isinstance(value, list):
            return [self.value(below, (*path, index)) for index, below in enumerate(value)]
        if not isinstance(value, Tagged):
            return value
        if id(value) not in self.lazies:
            self.lazies[id(value)] = self.lazy(value, slot, path)
        return self.lazies[id(value)]

    def lazy(self, tagged: Tagged, slot: Slot, path: tuple[str | int, ...]) -> Any:
        """The lazy object of a tagged value, or its text where nothing in it is lazy."""
        parts = {key: self.value(below, (*path, key)) for key, below in tagged.slots.items()}
        marks = _places(tagged)
        if tagged.kind is Text:
            return self.text(tagged, list(parts.values()), slot, path)
        named = {key: value for key, value in parts.items() if isinstance(key, str)}
        if tagged.kind is Call:
            args = [parts[key] for key in sorted(key for key in parts if isinstance(key, int))]
            return Call(args=args, kwargs=named, **tagged.fixed, mark=slot.mark, places=marks)
        return tagged.kind(**tagged.fixed, **named, mark=slot.mark, places=marks)

    def text(self, tagged: Tagged, items: list[Any], slot: Slot, path: tuple[str | int, ...]) -> Any:
        """The joined text, or a Text where an item is lazy. Items that cannot be joined are reported."""
        if any(isinstance(item, Lazy) for item in items):
            return Text(items=items, **tagged.fixed, mark=slot.mark)
        try:
            return join(tagged.fixed["how"], items)
        except (TypeError, ValueError) as error:
            self.problems.append(ConfigProblem(f"!{tagged.fixed['how']}: {error}", dotted(path), slot.mark))
            return ""


def _places(tagged: Tagged) -> dict[str | int, Mark]:
    """Where keyword names and positional arguments stand."""
    slots = dict(tagged.slots)
    if tagged.kind is CallMethod:
        slots = {**dict(enumerate(slots["args"].value)), **slots["kwargs"].value, **slots}
    return {key: below.key or below.mark for key, below in slots.items()}


def join(how: str, items: list[Any]) -> str:
    """What ``!how`` makes of its items; TypeError where one is neither text nor number."""
    for item in items:
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise TypeError(f"joins texts and numbers, not {item!r}")
    texts = [str(item) for item in items]
    if how == "join":
        return "".join(texts)
    if how == "abspath":
        return os.path.abspath(texts[0])  # noqa: PTH100 (resolve() would follow links)
    return os.path.expanduser(os.path.join(*texts))  # noqa: PTH111, PTH118 (keeps `./`, `//` and unknown users)
