"""A run's figures where its trackers keep them: all of them, once, and never in the training's way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from accelerate import tracking
from accelerate.utils import LoggerType

from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import OBSERVERS, Observer, StepEvent
from kd_core.runs.stop import Stopped
from kd_core.train import trackers as module
from kd_core.train.trackers import flat

CONFIG = """
task: image_classification
data: {name: digits, limit: 96, augment: none, workers: 0}
models:
  student: {arch: cnn, width: 4, depth: 2}
log_every: 2
checkpoint: {every_steps: 1}
stages:
  train:
    epochs: 2
    batch_size: 32
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""


class Stop(Observer):
    """Stops the run after a total of steps."""

    def __init__(self, *, after: int) -> None:
        self.after = after

    def after_step(self, event: StepEvent) -> None:
        if event.total == self.after:
            raise Stopped("here", 15)


class Stub(tracking.GeneralTracker):
    """A tracker that writes down what it is given."""

    name = "trackio"
    requires_logging_directory = False
    made: ClassVar[list[Stub]] = []
    fails: str = ""

    def __init__(self, project: str, **options: Any) -> None:
        super().__init__(_blank=True)
        if "unknown" in options:
            raise TypeError("unexpected keyword argument 'unknown'")
        self.project, self.options, self.sent, self.config = project, options, [], {}
        Stub.made.append(self)

    def start(self) -> None:
        self._fail("start")

    def _fail(self, action: str) -> None:
        if self.fails == action:
            raise ConnectionError("no route\nto the host")

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self._fail("log")
        self.sent.append((step, values))

    def finish(self) -> None:
        self.sent.append("finish")


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    OBSERVERS.names()
    monkeypatch.setattr(OBSERVERS, "_items", {**OBSERVERS._items, "stop": Stop})
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", Stub)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Stub)
    available = [*tracking.get_available_trackers(), LoggerType.TRACKIO, LoggerType.WANDB]
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: available)
    monkeypatch.setattr(Stub, "made", [])
    monkeypatch.setattr(Stub, "fails", "")


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Experiment]:
    path = tmp_path / "digits.yaml"
    path.write_text(CONFIG)
    return lambda *overrides, **options: Experiment.load(path, overrides=overrides, **options)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar in TensorBoard's files of a run, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_figures_of_steps_epochs_and_validations(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    experiment("trackers=tensorboard").train(tmp_path / "run")
    found = scalars(tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/steps.jsonl").read_text().splitlines()]
    losses = [pytest.approx((line["total"], line["loss"])) for line in lines]
    assert found["train/loss"] == found["train/ce"] == losses
    assert [step for step, _ in found["epoch/loss"]] == [step for step, _ in found["val/top1"]] == [3, 6]
    assert found["lr"][0][1] == pytest.approx(0.05)
    assert {"weighted/ce", "samples_per_second"} <= set(found)


@pytest.mark.parametrize("stop", [3, 5])
def test_a_resumed_run_goes_on_where_it_was_without_doubled_steps(
    experiment: Callable[..., Experiment], tmp_path: Path, stop: int
) -> None:
    watched = f"observers={{stop: {{after: {stop}}}}}"
    with pytest.raises(Stopped):
        experiment("trackers=[tensorboard, trackio]", watched).train(tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(config.read_text().replace(f"after: {stop}", "after: 0"))
    resume(tmp_path / "run")
    found = scalars(tmp_path / "run")
    assert [step for step, _ in found["train/loss"]] == [2, 4, 6]
    assert [step for step, _ in found["val/top1"]] == [step for step, _ in found["epoch/ce"]] == [3, 6]
    first, second = Stub.made
    assert first.options == second.options == {"name": f"run-{_key(tmp_path)[:6]}", "resume": "allow"}
    assert second.config == {}
    sent = [step for step, _ in (item for item in first.sent + second.sent if item != "finish")]
    assert sent == [2, 3, 3, 4, 6, 6, 6]
    assert first.sent[-1] == second.sent[-1] == "finish"


def _key(folder: Path) -> str:
    return str(json.loads((folder / "run/trackers.json").read_text())["id"])


def test_a_new_run_gives_its_config_and_its_options(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    experiment("trackers={wandb: {project: mine, tags: [a]}}").train(tmp_path / "run")
    (tracker,) = Stub.made
    assert tracker.project == "mine"
    assert tracker.options == {"name": "run", "id": _key(tmp_path), "resume": "allow", "tags": ["a"]}
    assert tracker.config["stages.train.batch_size"] == 32
    assert tracker.config["models.student.arch"] == "cnn"


@pytest.mark.parametrize("fails", ["start", "log"])
def test_a_tracker_without_a_network_stops_no_run(
    experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    monkeypatch.setattr(Stub, "fails", fails)
    result = experiment("trackers=trackio").train(tmp_path / "run")
    assert result.warnings == ["trackers.trackio: the run goes on without it: no route"]
    assert len(Stub.made) == 1


def test_weights_and_biases_is_tried_offline(
    experiment: Callable[..., Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stub, "start", lambda self: self._fail("" if "mode" in self.options else "start"))
    monkeypatch.setattr(Stub, "fails", "start")
    result = experiment("trackers=[wandb]").train(tmp_path / "run")
    assert result.warnings == ["trackers.wandb: it writes to files alone: no route"]
    assert Stub.made[-1].options["mode"] == "offline"
    assert Stub.made[-1].sent


def test_a_tracker_that_is_not_installed_is_one_error(experiment: Callable[..., Experiment], tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"trackers.comet_ml: comet_ml is not installed\n +hint: pip install comet-ml"):
        experiment("trackers=[comet_ml]").train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_option_that_a_tracker_does_not_have_is_an_error(
    experiment: Callable[..., Experiment], tmp_path: Path
) -> None:
    plan = experiment("trackers={trackio: {unknown: 1}}", trust=["trackio"])
    with pytest.raises(KDError, match=r"trackers.trackio: TypeError: unexpected keyword argument 'unknown'"):
        plan.train(tmp_path / "run")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[tensorbord]", "there is no tracker 'tensorbord'"),
        ("wandbb", "there is no tracker 'wandbb'"),
        ("{wandb: 3}", "must be a mapping of its options, not 3"),
        ("{trackio: {webhook_url: x}}", "may send figures or write files to a place that the config chooses"),
        ("{tensorboard: {filename_suffix: /../x}}", "may send figures or write files"),
    ],
)
def test_mistakes_are_told_before_training(experiment: Callable[..., Experiment], value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(f"trackers={value}")


def test_a_damaged_note_begins_new_runs(tmp_path: Path) -> None:
    file = tmp_path / module.FILE
    for text in ("", "[]", '{"id": 3, "sent": {}}', "[" * 10_000):
        file.write_text(text)
        assert module._read_notes(file) == {}


def test_a_config_becomes_plain_values() -> None:
    assert dict(flat({"a": {"b": [1, None]}, "c": Path("d"), "e": {}})) == {
        "a.b.0": 1,
        "a.b.1": None,
        "c": "d",
        "e": "{}",
    }
