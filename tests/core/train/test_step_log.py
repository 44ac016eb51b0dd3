"""The lines of ``steps.jsonl``: means over the steps between two lines, the same ones after a resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import OBSERVERS, Observer, StepEvent
from kd_core.runs.stop import Stopped
from kd_core.train.step_log import BLOCK, StepLog, keep_steps

CONFIG = """
task: image_classification
data: {name: digits, limit: 96, augment: none, workers: 0}
models:
  student: {arch: cnn, width: 4, depth: 2}
  teacher: {arch: cnn, width: 8, depth: 2, weights: null}
log_every: 2
stages:
  distill:
    epochs: 3
    batch_size: 32
    losses:
      ce: {loss: cross_entropy, weight: {schedule: linear, start: 1.0, end: 0.0, epochs: 3}}
      kd: {loss: kd, weight: 0.7, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
    scheduler: {call: !call:torch.optim.lr_scheduler.StepLR {step_size: 1, gamma: 0.5}, interval: step}
"""


class Steps(Observer):
    """Writes down each step, and stops the run after the total of ``stop_after``."""

    events: list[tuple[StepEvent, dict[str, float], float]]

    def __init__(self, *, stop_after: int = 0) -> None:
        self.stop_after = stop_after
        type(self).events = []

    def after_step(self, event: StepEvent) -> None:
        norm = float("nan") if event.grad_norm is None else float(event.grad_norm)
        self.events.append((event, event.losses(), norm))
        if event.total == self.stop_after:
            raise Stopped("here", 15)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registered observers, with one that is forgotten after the test."""
    torch.set_num_threads(1)
    OBSERVERS.names()
    monkeypatch.setattr(OBSERVERS, "_items", {**OBSERVERS._items, "steps": Steps})


def experiment(folder: Path, *overrides: str) -> Experiment:
    path = folder / "experiment.yaml"
    path.write_text(CONFIG)
    return Experiment.load(path, overrides=overrides)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "steps.jsonl").read_text().splitlines()]


def without_speed(run: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "samples_per_second"} for line in lines(run)]


def test_a_line_has_the_means_since_the_line_before(tmp_path: Path) -> None:
    clipped = "stages.distill.max_grad_norm=1.0"
    experiment(tmp_path, "observers={steps: {}}", clipped).train(tmp_path / "run")
    written, seen = lines(tmp_path / "run"), Steps.events
    assert [(line["step"], line["total"], line["epoch"]) for line in written] == [
        (2, 2, 0),
        (4, 4, 1),
        (6, 6, 1),
        (8, 8, 2),
        (9, 9, 2),
    ]
    for line in written[:4]:
        steps = seen[line["step"] - 2 : line["step"]]
        assert line["stage"] == "distill"
        assert line["lr"] == pytest.approx(0.05 * 0.5 ** (line["step"] - 1))
        assert line["loss"] == pytest.approx(sum(losses["loss"] for _, losses, _ in steps) / 2)
        assert line["terms"]["ce"] == pytest.approx(sum(losses["ce"] for _, losses, _ in steps) / 2)
        weighted = [losses["ce"] * event.weights[0] for event, losses, _ in steps]
        assert line["weighted"]["ce"] == pytest.approx(sum(weighted) / 2)
        assert sum(line["weighted"].values()) == pytest.approx(line["loss"])
        assert line["grad_norm"] == pytest.approx(sum(norm for *_, norm in steps) / 2)
        assert line["samples_per_second"] > 0
    assert [event.weights[0] for event, *_ in seen][:2] == pytest.approx([1.0, 8 / 9])


def test_gradients_that_are_not_clipped_by_norm_have_none_in_the_line(tmp_path: Path) -> None:
    experiment(tmp_path, "stages.distill.epochs=1").train(tmp_path / "run")
    assert all("grad_norm" not in line for line in lines(tmp_path / "run"))


@pytest.mark.parametrize("stop", [3, 4, 7])
def test_a_resumed_run_writes_the_same_lines(tmp_path: Path, stop: int) -> None:
    experiment(tmp_path, "log_every=4").train(tmp_path / "whole")
    halves = ("log_every=4", "checkpoint.every_steps=1", f"observers={{steps: {{stop_after: {stop}}}}}")
    with pytest.raises(Stopped):
        experiment(tmp_path, *halves).train(tmp_path / "run")
    resumed = tmp_path / "run/config.yaml"
    resumed.write_text(resumed.read_text().replace(f"stop_after: {stop}", "stop_after: 0"))
    resume(tmp_path / "run")
    assert without_speed(tmp_path / "run") == without_speed(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path / "whole")] == [4, 8, 9]


def test_a_stage_that_ends_early_and_the_next_one_have_their_own_lines(tmp_path: Path) -> None:
    stop = "stages.distill.early_stopping={patience: 1, min_delta: 1000.0}"
    second = "stages.second={epochs: 1, losses: {ce: {loss: cross_entropy}}}"
    experiment(tmp_path, "log_every=4", stop, second).train(tmp_path / "run")
    written = lines(tmp_path / "run")
    assert [(line["stage"], line["step"]) for line in written] == [("distill", 4), ("distill", 6), ("second", 3)]
    assert set(written[-1]["terms"]) == {"ce"}


def test_many_steps_are_kept_in_one_tensor(tmp_path: Path) -> None:
    log = StepLog(tmp_path / "steps.jsonl", 10**6)
    log._writes = True
    event = StepEvent(
        *("s", 0, 1, 1, 10**6, 1, 10**6, 1, ["ce"], torch.tensor([1.0, 2.0])),
        *([1.0], [0.1], 8, 0.5, torch.tensor(3.0), lambda: 0.0, {}),
    )
    for _ in range(BLOCK + 5):
        log.after_step(event)
    state = log.state_dict()
    assert (len(state["values"]), len(state["weights"]), len(state["norms"])) == (BLOCK + 5,) * 3
    assert (state["values"][-1], state["norms"][-1]) == ([1.0, 2.0], 3.0)


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "steps.jsonl"
    file.write_text('{"total": 1}\n{"total"}\n{"tot')
    with pytest.raises(KDError, match=r"steps.jsonl:2: is damaged"):
        keep_steps(file, 5)
