"""Named things a config can ask for."""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from kd_core.errors import KDError, did_you_mean, nearest, same_word
from kd_core.ranges import checked
from kd_core.synonyms import NAMES, listed

T = TypeVar("T")

PLUGINS = "KD_PLUGINS"
"""The environment variable with the distributions whose plug-ins are loaded, separated by commas; unset, all are."""


class Registry(Generic[T]):
    """Names of one kind, filled by decorators and, when a name is not there yet, by plug-ins.

    ``group`` is an entry-point group (``kd.losses``, say) whose values are modules to import for what
    they register. A plug-in is imported when a name is missing or all names are listed, never before.
    """

    def __init__(self, kind: str, group: str, check: Callable[[str, T], None] | None = None) -> None:
        self.kind = kind
        self.group = group
        self._check = check
        self._items: dict[str, T] = {}
        self._aliases: dict[str, str] = {}
        self._pending: list[str] | None = None

    def __call__(self, name: str, *aliases: str) -> Callable[[T], T]:
        """Decorator that registers under ``name``, with its ranges checked by calls; KDError where a name is taken."""

        def register(item: T) -> T:
            if self._check:
                self._check(name, item)
            for key in (name, *aliases):
                owner = self._items.get(self._aliases.get(key, key))
                if owner is not None:
                    first = f"{self.kind} {key!r} is already registered by {owner_of(owner)}"
                    raise KDError(f"{first}, not again by {owner_of(item)}")
            item = checked(item)
            self._items[name] = item
            self._aliases.update(dict.fromkeys(aliases, name))
            return item

        return register

    def get(self, name: str) -> T:
        """The item of that name; KDError with the nearest name where there is none."""
        while (entry := self._items.get(self._aliases.get(name, name))) is None:
            if not self._load_next_plugin():
                names = [*self._items, *self._aliases]
                synonym = listed(NAMES.get(self.kind, {}), name)
                near = synonym if synonym in names and not same_word(name, names) else nearest(name, names)
                hint = f"did you mean {near!r}?" if near else did_you_mean(name, list(self._items))
                raise KDError(f"there is no {self.kind} {name!r}", hint=hint)
        return entry

    def __contains__(self, name: str) -> bool:
        try:
            self.get(name)
        except KDError:
            return False
        return True

    def names(self) -> list[str]:
        """Every name, aliases left out, with all plug-ins loaded."""
        while self._load_next_plugin():
            pass
        return sorted(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load_next_plugin(self) -> bool:
        if self._pending is None:
            self._pending = plugins(self.group)
        if not self._pending:
            return False
        importlib.import_module(self._pending.pop())
        return True


def plugins(group: str) -> list[str]:
    """The modules of an entry-point group, the first one last, of all distributions or of those in ``KD_PLUGINS``."""
    from importlib.metadata import entry_points  # slow to import, and not needed for `--help`

    listed = os.environ.get(PLUGINS)
    allowed = None if listed is None else {_normalized(name) for name in listed.split(",")}
    entries = [
        entry
        for entry in entry_points(group=group)
        if allowed is None or (entry.dist is not None and _normalized(entry.dist.name) in allowed)
    ]
    return sorted({entry.value for entry in entries}, reverse=True)


def _normalized(distribution: str) -> str:
    """The name of a distribution as packaging compares it: ``KD_core`` is ``kd-core``."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def owner_of(item: object) -> str:
    """``module.qualname (file:line)`` of a function or class, for messages."""
    item = inspect.unwrap(item) if callable(item) else item
    name = f"{getattr(item, '__module__', '?')}.{getattr(item, '__qualname__', repr(item))}"
    try:
        return f"{name} ({inspect.getsourcefile(item)}:{inspect.getsourcelines(item)[1]})"  # type: ignore[arg-type]
    except (TypeError, OSError):
        return name
