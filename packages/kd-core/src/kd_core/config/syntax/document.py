"""A loaded config: plain data, and the place of every value in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kd_core.config.syntax.tree import Slot, child, dotted
from kd_core.errors import ConfigProblem, Mark


@dataclass(frozen=True, eq=False)
class Document:
    """``data`` holds plain dicts, lists, scalars and :class:`~kd_core.config.Lazy` values; bases and
    overrides are applied. ``root`` remembers the places; changing ``data`` does not disturb it. ``written`` says where
    things are written that have paths of their own: the models of a group."""

    data: dict[str, Any]
    file: str
    root: Slot
    written: Mapping[tuple[str | int, ...], tuple[str | int, ...]] = field(default_factory=dict)

    def mark(self, path: Sequence[str | int]) -> Mark:
        """Where the value stands; the nearest enclosing one where the path leads nowhere."""
        return self._slot(path)[0].mark

    def key_mark(self, path: Sequence[str | int]) -> Mark:
        """Where the value's key stands; as :meth:`mark` where it has none."""
        slot, exists = self._slot(path)
        return slot.key if exists and slot.key else slot.mark

    def problem(
        self, path: Sequence[str | int], message: str, hint: str | None = None, *, key: bool = False
    ) -> ConfigProblem:
        """A problem with the value at ``path``, or with its ``key``."""
        return ConfigProblem(message, dotted(path), self.key_mark(path) if key else self.mark(path), hint, key)

    def place(self, problem: ConfigProblem) -> ConfigProblem:
        """The problem with file, line and column, where it has a path and no place yet."""
        if problem.mark is not None or not problem.path:
            return problem
        path = problem.path.split(".")
        return replace(problem, mark=self.key_mark(path) if problem.at_key else self.mark(path))

    def _slot(self, path: Sequence[str | int]) -> tuple[Slot, bool]:
        slot, first = self.root, tuple(path[:2])
        for key in (*self.written.get(first, first), *path[2:]):
            below = child(slot.value, key)
            if below is None:
                return slot, False
            slot = below
        return slot, True
