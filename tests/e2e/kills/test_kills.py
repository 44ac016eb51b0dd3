"""Runs that are killed anywhere end as those that are not.

``KD_KILLS`` is the number of kills of the slow test, over all scenarios (100 unless it is set; 1,000 at night), and
``KD_KILLS_SEED`` decides which.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .scenarios import SCENARIOS
from .schedule import Report, Schedule, server

KILLS = int(os.environ.get("KD_KILLS", "100"))
SEED = int(os.environ.get("KD_KILLS_SEED", "0"))
SHARES = {name: 0.1 if scenario.slow else 1.0 for name, scenario in SCENARIOS.items()}


def killed(name: str, kills: int, seed: int, folder: Path) -> Report:
    with server(folder) as started:
        report = Schedule(started, name, SCENARIOS[name]).go(kills, seed)
    print(f"{name}: {report.kills} kills at {len(report.kinds)} kinds of events in {report.runs} runs")
    return report


def test_a_few_kills(tmp_path: Path) -> None:
    report = killed("stages", 3, SEED, tmp_path)
    assert not report.wrong
    assert report.kills >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_many_kills(name: str, tmp_path: Path) -> None:
    report = killed(name, max(2, round(KILLS * SHARES[name] / sum(SHARES.values()))), SEED, tmp_path)
    assert not report.wrong, "\n".join(report.wrong)
