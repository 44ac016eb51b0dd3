"""Schedules: numbers as functions of the step, and what is said of those that are written wrongly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kd_core.config.schedules import Schedule, parse_schedule
from kd_core.errors import ConfigError


def parsed(value: Any) -> Schedule:
    schedule = parse_schedule(value)
    assert not isinstance(schedule, float)
    return schedule


def values(value: Any, steps: list[int], total_steps: int = 12, steps_per_epoch: int = 3) -> list[float]:
    schedule = parsed(value)
    return [schedule(step, total_steps=total_steps, steps_per_epoch=steps_per_epoch) for step in steps]


def problems(value: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_schedule(value)
    return [f"{problem.path}: {problem.message} ({problem.hint})" for problem in caught.value.problems]


@pytest.mark.parametrize("value", [3, 3.0, {"schedule": "constant", "value": 3}])
def test_a_constant_is_a_float(value: Any) -> None:
    found = parse_schedule(value)
    assert (found, type(found)) == (3.0, float)


def test_linear_over_epochs_steps_and_the_whole_stage() -> None:
    line = {"schedule": "linear", "start": 1, "end": 0}
    assert values({**line, "epochs": 2}, [0, 3, 6, 11]) == [1, 0.5, 0, 0]
    assert values({**line, "epochs": 0.5}, [0, 1, 2], steps_per_epoch=4) == [1, 0.5, 0]
    assert values({**line, "steps": 4}, [0, 1, 4, 11]) == [1, 0.75, 0, 0]
    assert values(line, [0, 3, 6, 9]) == [1, 0.75, 0.5, 0.25]


def test_a_ramp_may_begin_later_and_then_takes_what_is_left() -> None:
    late = {"schedule": "linear", "start": 2.0, "end": 0.0, "after": 2}
    assert values(late, [0, 6, 9, 11]) == pytest.approx([2.0, 2.0, 1.0, 1 / 3])
    assert values({**late, "steps": 2}, [2, 3, 4, 11]) == [2.0, 1.0, 0.0, 0.0]
    assert values({**late, "after": 9}, [0, 11]) == [2.0, 2.0]
    assert problems({**late, "after": -1})[0].startswith("after: -1 must be at least 0")


def test_cosine_is_flat_at_both_ends() -> None:
    wave = {"schedule": "cosine", "start": 4.0, "end": 2.0, "steps": 4}
    assert values(wave, [0, 1, 2, 3, 4, 9]) == pytest.approx([4, 3 + 0.5**0.5, 3, 3 - 0.5**0.5, 2, 2])


def test_sigmoid_is_the_ramp_of_temporal_ensembling() -> None:
    ramp = {"schedule": "sigmoid", "start": 0.0, "end": 2.0, "epochs": 1}
    expected = [2 * math.exp(-5 * (1 - done) ** 2) for done in (0, 0.25, 0.5, 0.75)]
    assert values(ramp, [0, 1, 2, 3, 4, 9], steps_per_epoch=4) == pytest.approx([*expected, 2, 2])


def test_step_changes_at_the_mark() -> None:
    stairs = {"schedule": "step", "values": [1, 0.5, 0.1]}
    assert values({**stairs, "epochs": [1, 2]}, [0, 2, 3, 5, 6, 11]) == [1, 1, 0.5, 0.5, 0.1, 0.1]
    assert values({**stairs, "steps": [1, 2]}, [0, 1, 2, 11]) == [1, 0.5, 0.1, 0.1]


@given(
    shape=st.sampled_from(["linear", "cosine", "sigmoid"]),
    ends=st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
    length=st.integers(1, 50),
    step=st.integers(0, 60),
)
def test_a_ramp_stays_between_its_ends_and_arrives(
    shape: str, ends: tuple[float, float], length: int, step: int
) -> None:
    ramp = {"schedule": shape, "start": ends[0], "end": ends[1], "steps": length}
    (value,) = values(ramp, [step])
    assert min(ends) - 1e-9 <= value <= max(ends) + 1e-9
    assert step < length or value == ends[1]
    assert step > 0 or shape == "sigmoid" or value == ends[0]


def test_a_schedule_may_be_compared_and_printed() -> None:
    line = {"schedule": "linear", "start": 0, "end": 1, "epochs": 2}
    assert parse_schedule(line) == parse_schedule(dict(reversed(line.items())))
    assert "end=1.0" in repr(parse_schedule(line))


@pytest.mark.parametrize("value", ["x", "1.0", True, None, [1.0], {}, {"start": 0}, float("nan"), float("inf")])
def test_neither_number_nor_schedule(value: Any) -> None:
    (problem,) = problems(value)
    assert "neither a finite number nor a schedule" in problem
    assert "{schedule: linear | cosine | sigmoid, start: 0.0, end: 1.0, epochs: 10}" in problem


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("schedule: liner", ["schedule: there is no schedule 'liner' (did you mean 'linear'?)"]),
        ("schedule: [linear]", ["schedule: there is no schedule ['linear']"]),
        ("schedule: constant", [": 'value' is missing"]),
        (
            "schedule: linear, start: 0, end: 1, epoch: 3",
            ["epoch: a linear schedule has no key 'epoch' (did you mean 'epochs"],
        ),
        ("schedule: linear, start: a, end: true", ["start: 'a' is not a finite", "end: True is not a finite"]),
        ("schedule: linear, start: 0, end: 1, epochs: 1, steps: 2", ["steps: 'epochs' and 'steps' exclude each other"]),
        (
            "schedule: linear, 3: 4, values: [1]",
            ["3: a linear", "values: a linear", ": 'start' is missing", ": 'end' is"],
        ),
        ("schedule: cosine, start: 0, end: 1, epochs: 0", ["epochs: 0 must be above 0"]),
        ("schedule: cosine, start: 0, end: 1, epochs: null", ["epochs: None is not a finite number"]),
        ("schedule: cosine, start: 0, end: 1, steps: 1.5", ["steps: 1.5 must be an integer"]),
        ("schedule: step", [": 'values' is missing", ": 'epochs' or 'steps' is missing"]),
        ("schedule: step, values: 1.0, epochs: 3", ["values: 1.0 is not a list", "epochs: 3 is not a list"]),
        ("schedule: step, values: [], epochs: [a]", ["values: [] is not a list", "epochs: ['a'] is not a list"]),
        ("schedule: step, values: [1, 2, 3], epochs: [4, 4]", ["epochs: [4, 4] must be above 0 and rise"]),
        ("schedule: step, values: [1, 2], steps: [0]", ["steps: [0] must be above 0"]),
        ("schedule: step, values: [1, 2], steps: [1, 2]", ["values: 2 changes lie between 3 values, not 2"]),
    ],
)
def test_every_problem_is_named_with_its_key(written: str, expected: list[str]) -> None:
    found = problems(yaml.safe_load(f"{{{written}}}"))
    assert len(found) == len(expected)
    for message, start in zip(found, expected, strict=True):
        assert message.startswith(start)
