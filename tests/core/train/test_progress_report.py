"""Which epochs are shown, and how."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kd_core.observers import EpochEvent, ValidationEvent
from kd_core.runs.progress import Reporter
from kd_core.train import observers
from kd_core.train.observers import ProgressReport


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(observers.time, "monotonic", lambda: now[0])
    return now


def run(report: ProgressReport, clock: list[float], epochs: int, seconds: float) -> None:
    for epoch in range(1, epochs + 1):
        clock[0] += seconds
        report.after_epoch(EpochEvent("train", epoch, epochs, epoch, {"loss": 1 / epoch, "ce": 0.25}, [0.1], seconds))
        report.after_validation(
            ValidationEvent("train", epoch, epoch, {"top1": 90.0, "top1/a": 1.0}, epoch == 1, False)
        )


def test_fast_epochs_are_shown_now_and_then_and_logged_all(tmp_path: Path, clock: list[float]) -> None:
    stream = io.StringIO()
    run(ProgressReport(Reporter(tmp_path / "log.txt", stream=stream), 50), clock, 600, 0.1)
    lines = stream.getvalue().splitlines()
    shown = [int(line.split("/")[0].split()[1]) for line in lines if line.startswith("train")]
    assert shown[0] == 1
    assert shown[-1] == 600
    assert 20 < len(shown) < 70
    assert f"    {600 - len(shown)} more epochs are in log.txt" in lines
    assert sum(line.startswith("    validation") for line in lines) == len(shown)
    assert (tmp_path / "log.txt").read_text().count("/600: loss") == 600
    assert lines[0] == "train   1/600: loss 1         ce 0.25      (0.1 s)"
    assert lines[1] == "    validation: top1 90        (best so far)"
    assert {line.index("ce ") for line in lines if line.startswith("train")} == {lines[0].index("ce ")}


@pytest.mark.parametrize(("epochs", "seconds"), [(30, 0.01), (100, 60.0)])
def test_few_epochs_and_slow_ones_are_all_shown(
    tmp_path: Path, clock: list[float], epochs: int, seconds: float
) -> None:
    stream = io.StringIO()
    run(ProgressReport(Reporter(stream=stream), 50), clock, epochs, seconds)
    assert stream.getvalue().count("\ntrain") == epochs - 1
    assert "log.txt" not in stream.getvalue()


def test_the_end_of_an_early_stop_is_shown(clock: list[float]) -> None:
    stream = io.StringIO()
    report = ProgressReport(Reporter(stream=stream), 50)
    run(report, clock, 3, 0.01)
    report.after_epoch(EpochEvent("late", 1, 100, 1, {"loss": 1.0}, [0.1], 0.01))
    report.after_epoch(EpochEvent("late", 2, 100, 2, {"loss": 1.0}, [0.1], 0.01))
    report.after_validation(ValidationEvent("late", 2, 2, {"top1": 1.0}, False, True))
    assert stream.getvalue().endswith("validation: top1 1         stopping early\n")
