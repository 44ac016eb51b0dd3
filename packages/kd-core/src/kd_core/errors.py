"""A user's mistakes as data: each has a message and, where they are known, a place, a path and a hint.

Code that passes an error on reads and changes these fields, never the text. An inner layer knows only the end of a
path (``input.max_length``); the layers around it put the beginning in front with :meth:`KDError.at` or
:func:`error_path`, and the config's document adds file, line and column last.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

E = TypeVar("E", bound="KDError")

SHOWN = 16
"""How many candidates a hint names."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value was written: a file with 1-based line and column, or an option (line 0). Column 0: the line."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong.

    ``path`` is dotted (``stages.distill.losses.kd``) and ``hint`` says what to write. ``at_key``: the mistake is the
    key at that path, not its value.
    """

    message: str
    path: str = ""
    mark: Mark | None = None
    hint: str | None = None
    at_key: bool = field(default=False, compare=False)

    def below(self, *path: str | int) -> ConfigProblem:
        """The same problem with ``path`` in front of its own, which stays where it begins with ``path`` already."""
        front = ".".join(str(part) for part in path if part != "")
        if not front or self.path == front or self.path.startswith(f"{front}."):
            return self
        return replace(self, path=f"{front}.{self.path}" if self.path else front)

    def __str__(self) -> str:
        head = ": ".join(str(part) for part in (self.mark, self.path, self.message) if part)
        return f"{head}\n    hint: {self.hint}" if self.hint else head


class KDError(Exception):
    """A user's mistake. A command prints it without a traceback and exits with 2.

    ``path`` is relative to what the raising code knows of; see :meth:`at`.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        path: str = "",
        at_key: bool = False,
        mark: Mark | None = None,
    ) -> None:
        super().__init__(message)
        self.problems: list[ConfigProblem] = [ConfigProblem(message, path, mark, hint, at_key)]

    def at(self: E, *path: str | int) -> E:
        """This error, of the same class, with ``path`` in front of the path of each of its problems."""
        moved = copy(self)
        moved.problems = [problem.below(*path) for problem in self.problems]
        return moved

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles are made without a call of ``__init__``, whose parameters are a subclass's own."""
        return _rebuilt, (type(self), self.args), self.__dict__

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


def _rebuilt(kind: type[E], args: tuple[Any, ...]) -> E:
    """An error of a class with its ``args``, its fields not set yet."""
    error = kind.__new__(kind)
    error.args = args
    return error


class Unverified(KDError):
    """In a check: what only a run, which may open connections and read files, would tell. No mistake."""


class RunInterrupted(KDError):
    """What ends a run without a mistake in it: a full disk, or a process that was killed. `resume` goes on."""

    def with_hint(self, hint: str) -> RunInterrupted:
        """The same error with ``hint`` after the hint it has."""
        added = copy(self)
        added.problems = [
            replace(problem, hint=f"{problem.hint}; {hint}" if problem.hint else hint) for problem in self.problems
        ]
        return added


class ConfigError(KDError):
    """All problems found in a config, together."""

    def __init__(self, problems: ConfigProblem | Iterable[ConfigProblem]) -> None:
        several = [problems] if isinstance(problems, ConfigProblem) else list(problems)
        Exception.__init__(self, several)
        self.problems = several


class FaultyData(ConfigError):
    """What is wrong with data that are on this machine, as annotations tell that were read."""


@contextmanager
def error_path(*path: str | int) -> Iterator[None]:
    """Raise the errors of the block anew with ``path`` in front of their own."""
    try:
        yield
    except KDError as error:
        raise error.at(*path) from error


def reason(error: BaseException) -> str:
    """An error of someone else's code in one line."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}".rstrip(": ")


@contextmanager
def foreign_errors(subject: str, *path: str | int) -> Iterator[None]:
    """Whatever someone else's code raises in the block is a KDError at ``path``: "SUBJECT failed: ...".

    Too little memory, and what the system says of files, stay what they are.
    """
    try:
        yield
    except (KDError, MemoryError, OSError):
        raise
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which must not be imported here
            raise
        raise KDError(f"{subject} failed: {reason(error)}").at(*path) from error


def in_order(problems: Iterable[ConfigProblem]) -> list[ConfigProblem]:
    """Each problem once, those of a file in the order of its lines."""
    first: dict[str, int] = {}
    unique = list(dict.fromkeys(problems))
    marks = [problem.mark or Mark("") for problem in unique]
    for mark in marks:
        first.setdefault(mark.file, len(first))
    order = [(first[mark.file], mark.line, mark.column) for mark in marks]
    return [unique[position] for position in sorted(range(len(unique)), key=order.__getitem__)]


def same_word(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that differs from ``name`` in case, hyphens and underscores at most."""
    return next((candidate for candidate in candidates if _plain(candidate) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a user most likely meant by ``name``, or None where nothing is near."""
    names = list(candidates)
    if same := same_word(name, names):
        return same
    matches = [candidate for candidate in names if candidate.endswith(f".{name}")]
    matches = matches or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return matches[0] if matches else None


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """A hint: the nearest candidate, else all of them, or the first where they are many."""
    near = nearest(name, candidates)
    if near:
        return f"did you mean {near!r}?"
    if not candidates:
        return "there are none to choose from"
    shown = sorted(candidates)[:SHOWN]
    rest = f", ... ({len(candidates)} in all)" if len(candidates) > SHOWN else ""
    return f"choose one of: {', '.join(shown)}{rest}"
