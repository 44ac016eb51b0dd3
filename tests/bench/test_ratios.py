"""What counts as slower than a baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from .ratios import Ratio, in_turn, machine, read_baseline, verdict, write_baseline


@pytest.mark.parametrize(
    ("now", "slower"),
    [
        ((1.00, 0.99, 1.01), False),
        ((1.06, 1.05, 1.07), True),
        ((1.06, 1.01, 1.10), False),  # within the spread
        ((1.04, 1.035, 1.045), False),  # less than 5 %
        ((0.50, 0.49, 0.51), False),
    ],
)
def test_slower_is_more_than_the_tolerance_and_the_spread(now: tuple[float, ...], slower: bool) -> None:
    before = {"step": Ratio(1.0, 0.98, 1.02), "gone": Ratio(1.0, 1.0, 1.0)}
    assert verdict({"step": Ratio(*now), "new": Ratio(9.0, 9.0, 9.0)}, before) == (["step"] if slower else [])


def test_sides_are_measured_in_turn() -> None:
    calls: list[str] = []

    def work(name: str, size: int) -> None:
        calls.append(name)
        sum(range(size))

    rounds = in_turn(lambda: work("ours", 400_000), lambda: work("theirs", 100_000), 4)
    assert len(rounds) == 4
    assert 2 < Ratio.of(rounds).median < 8
    assert calls[:2] == ["ours", "theirs"]
    turns = [name for name, before in zip(calls, ["", *calls[:-1]], strict=True) if name != before]
    assert len(turns) >= 8


def test_a_baseline_says_of_which_machine_it_is(tmp_path: Path) -> None:
    ratios = {"step": Ratio(1.0, 0.9, 1.1)}
    assert read_baseline(tmp_path / "none.json") == ({}, {})
    write_baseline(tmp_path / "baseline.json", ratios)
    assert read_baseline(tmp_path / "baseline.json") == (machine(), ratios)
