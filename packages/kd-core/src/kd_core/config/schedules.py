"""Numbers that change while a stage trains: a term's weight, a temperature, any float hyperparameter.

A schedule is a pure function of the step within the stage, so a resumed run needs no state to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeGuard

from kd_core.errors import ConfigError, ConfigProblem, did_you_mean

Unit = Literal["epochs", "steps"]


class Schedule(Protocol):
    """A number at each step of a stage."""

    def __call__(self, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
        """The value at ``step``: optimiser steps of this stage taken before this one, from 0 to ``total_steps`` - 1."""
        ...

    def numbers(self) -> Iterator[tuple[tuple[str | int, ...], float]]:
        """The numbers it is made of, each with its place in the config. All its values lie between them."""
        ...


@dataclass(frozen=True)
class Ramp:
    """From ``start`` to ``end`` within ``length`` epochs or steps (None: all that are left), and then on.

    It begins ``after`` so many epochs or steps, before which it is ``start``. A ``sigmoid`` one is by a factor exp(-5)
    on its way when it begins.
    """

    start: float
    end: float
    length: float | None
    unit: Unit
    shape: Literal["linear", "cosine", "sigmoid"]
    after: float = 0.0

    def __call__(self, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
        begin = _steps(self.after, self.unit, steps_per_epoch)
        length = total_steps - begin if self.length is None else _steps(self.length, self.unit, steps_per_epoch)
        done = min((step - begin) / length, 1.0) if step > begin else 0.0
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        elif self.shape == "sigmoid":  # Laine & Aila, Temporal Ensembling, ICLR 2017 (arXiv 1610.02242)
            done = math.exp(-5 * (1 - done) ** 2)
        return self.start + (self.end - self.start) * done if done < 1 else self.end

    def numbers(self) -> Iterator[tuple[tuple[str | int, ...], float]]:
        """Each number of the schedule with its path, for range checks."""
        yield ("start",), self.start
        yield ("end",), self.end


@dataclass(frozen=True)
class Staircase:
    """``values[0]`` at first, ``values[i + 1]`` from ``at[i]`` epochs or steps on."""

    values: tuple[float, ...]
    at: tuple[float, ...]
    unit: Unit

    def __call__(self, step: int, *, total_steps: int, steps_per_epoch: int) -> float:
        return self.values[sum(step >= _steps(milestone, self.unit, steps_per_epoch) for milestone in self.at)]

    def numbers(self) -> Iterator[tuple[tuple[str | int, ...], float]]:
        """Each number of the schedule with its path, for range checks."""
        for position, value in enumerate(self.values):
            yield ("values", position), value


def _steps(length: float, unit: Unit, steps_per_epoch: int) -> float:
    return length * steps_per_epoch if unit == "epochs" else length


FORMS = (
    "write a number, {schedule: linear | cosine | sigmoid, start: 0.0, end: 1.0, epochs: 10} "
    "or {schedule: step, values: [1.0, 0.1], epochs: [10]}"
)


def parse_schedule(value: Any) -> float | Schedule:
    """A number as it is, a mapping as the schedule it describes.

    ``{schedule: constant, value: V}``,
    ``{schedule: linear | cosine | sigmoid, start: A, end: B[, epochs: N | steps: N][, after: N]}`` or
    ``{schedule: step, values: [A, B, ...], epochs: [N, ...] | steps: [N, ...]}``. ConfigError with every problem, its
    path relative to ``value``.
    """
    if _is_number(value):
        return float(value)
    if not isinstance(value, Mapping) or "schedule" not in value:
        raise ConfigError(ConfigProblem(f"{value!r} is neither a finite number nor a schedule", hint=FORMS))
    kind = value["schedule"]
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(
            ConfigProblem(f"there is no schedule {kind!r}", "schedule", hint=did_you_mean(str(kind), list(KINDS)))
        )
    keys, parse = KINDS[kind]
    form = _Form(value, keys)
    schedule = parse(form)
    if form.problems:
        raise ConfigError(form.problems)
    return schedule


class _Form:
    """A schedule's mapping, read key by key; what is wrong with it gathers in ``problems``."""

    def __init__(self, kwargs: Mapping[str, Any], keys: tuple[str, ...]) -> None:
        self.kwargs = kwargs
        self.problems: list[ConfigProblem] = []
        for key in kwargs:
            if key not in ("schedule", *keys):
                hint = did_you_mean(str(key), keys)
                message = f"a {kwargs['schedule']} schedule has no key {key!r}"
                self.problems.append(ConfigProblem(message, str(key), hint=hint, at_key=True))

    def wrong(self, key: str, message: str, hint: str | None = None) -> None:
        """Report a problem at ``key``, or at the whole schedule where that key is missing."""
        self.problems.append(ConfigProblem(message, str(key) if key in self.kwargs else "", hint=hint))

    def number(self, key: str) -> float:
        """The finite number at ``key``; NaN, reported, where it is not one."""
        number = self.kwargs.get(key)
        if _is_number(number):
            return float(number)
        self.wrong(key, f"{number!r} is not a finite number" if key in self.kwargs else f"{key!r} is missing")
        return math.nan

    def numbers(self, key: str) -> tuple[float, ...]:
        """The finite numbers at ``key``; an empty tuple, reported, where they are not."""
        numbers = self.kwargs.get(key)
        if isinstance(numbers, (list, tuple)) and numbers and all(map(_is_number, numbers)):
            return tuple(map(float, numbers))
        self.wrong(key, f"{numbers!r} is not a list of finite numbers" if key in self.kwargs else f"{key!r} is missing")
        return ()

    def unit(self) -> Unit | None:
        """Which of 'epochs' and 'steps' is given, None without either; both are reported."""
        if "epochs" in self.kwargs and "steps" in self.kwargs:
            self.wrong("steps", "'epochs' and 'steps' exclude each other")
        return "epochs" if "epochs" in self.kwargs else "steps" if "steps" in self.kwargs else None

    def rising(self, unit: Unit, marks: tuple[float, ...]) -> None:
        """Report ``marks`` that do not rise from above 0, or are parts of a step. NaN (reported before) passes."""
        if any(later <= earlier for earlier, later in zip((0.0, *marks), marks, strict=False)):
            self.wrong(unit, f"{self.kwargs[unit]!r} must be above 0" + (" and rise" if len(marks) > 1 else ""))
        if unit == "steps" and any(mark % 1 > 0 for mark in marks):
            self.wrong(unit, f"{self.kwargs[unit]!r} must be an integer: steps cannot be divided")


def _constant(form: _Form) -> float:
    return form.number("value")


def _ramp(form: _Form) -> Ramp:
    unit = form.unit()
    length = form.number(unit) if unit else None
    if unit and length is not None:
        form.rising(unit, (length,))
    after = form.number("after") if "after" in form.kwargs else 0.0
    if after < 0:
        form.wrong("after", f"{form.kwargs['after']!r} must be at least 0")
    return Ramp(form.number("start"), form.number("end"), length, unit or "epochs", form.kwargs["schedule"], after)


def _staircase(form: _Form) -> Staircase:
    values, unit = form.numbers("values"), form.unit()
    at = form.numbers(unit) if unit else ()
    if unit:
        form.rising(unit, at)
    else:
        form.wrong("epochs", "'epochs' or 'steps' is missing: where the value changes")
    if values and at and len(values) != len(at) + 1:
        form.wrong("values", f"{len(at)} changes lie between {len(at) + 1} values, not {len(values)}")
    return Staircase(values, at, unit or "epochs")


KINDS: dict[str, tuple[tuple[str, ...], Callable[[_Form], float | Schedule]]] = {
    "constant": (("value",), _constant),
    "linear": (("start", "end", "epochs", "steps", "after"), _ramp),
    "cosine": (("start", "end", "epochs", "steps", "after"), _ramp),
    "sigmoid": (("start", "end", "epochs", "steps", "after"), _ramp),
    "step": (("values", "epochs", "steps"), _staircase),
}
"""Each kind of schedule: its keys and its parser."""


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
