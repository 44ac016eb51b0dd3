"""What a user's mistake looks like: problems with a place, a path, a reason and a mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SHOWN = 16
"""How many candidates a hint names."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value was written: a file with 1-based line and column, or an option (line 0)."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing that is wrong. ``path`` is dotted (``stages.distill.losses.kd``), ``hint`` says what to write."""

    message: str
    path: str = ""
    mark: Mark | None = None
    hint: str | None = None

    def __str__(self) -> str:
        head = ": ".join(str(part) for part in (self.mark, self.path, self.message) if part)
        return f"{head}\n    hint: {self.hint}" if self.hint else head


class KDError(Exception):
    """A user's mistake. A command prints it without a traceback and exits with 2."""


class Unverified(KDError):
    """In a check: what only a run, which may open connections and read files, would tell. No mistake."""


class ConfigError(KDError):
    """All problems found in a config, together."""

    def __init__(self, problems: ConfigProblem | Iterable[ConfigProblem]) -> None:
        self.problems = [problems] if isinstance(problems, ConfigProblem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))


def in_order(problems: Iterable[ConfigProblem]) -> list[ConfigProblem]:
    """Each problem once, those of a file in the order of its lines."""
    first: dict[str, int] = {}
    found = list(dict.fromkeys(problems))
    marks = [problem.mark or Mark("") for problem in found]
    for mark in marks:
        first.setdefault(mark.file, len(first))
    order = [(first[mark.file], mark.line, mark.column) for mark in marks]
    return [found[each] for each in sorted(range(len(found)), key=order.__getitem__)]


def problems_of(error: KDError) -> list[ConfigProblem]:
    """What an error says, as problems; a hint in its text becomes the hint."""
    if isinstance(error, ConfigError):
        return error.problems
    message, _, hint = str(error).partition("\n    hint: ")
    return [ConfigProblem(message, hint=hint or None)]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate a user most likely meant by ``name``, or None where nothing is near."""
    known = list(candidates)
    found = [each for each in known if each.endswith(f".{name}")]
    found = found or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, candidates: Sequence[str]) -> str:
    """A hint: the nearest candidate, else all of them, or the first where they are many."""
    near = nearest(name, candidates)
    if near:
        return f"did you mean {near!r}?"
    if not candidates:
        return "there is none to choose from"
    shown = sorted(candidates)[:SHOWN]
    rest = f", ... ({len(candidates)} in all)" if len(candidates) > SHOWN else ""
    return f"choose one of: {', '.join(shown)}{rest}"
