"""What observers are shown, and that a run with them gives the same bytes as without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import OBSERVERS, EpochEvent, Observer, RunEvent, StepEvent, ValidationEvent
from kd_core.registry import Registry
from kd_core.runs.stop import Stopped
from kd_core.train import observers as module
from kd_core.train.observers import GradientNorms, Observers, TermGradients

CONFIG = """
task: image_classification
data: {name: digits, limit: 96, augment: none, workers: 0}
models:
  student: {arch: cnn, width: 4, depth: 2}
  teacher: {arch: cnn, width: 8, depth: 2, weights: null}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy, weight: 0.3}
      kd: {loss: kd, weight: 0.7, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""


class Recorder(Observer):
    """Writes down what it is told, in the order of the run."""

    events: list[Any]

    def on_start(self, event: RunEvent) -> None:
        type(self).events = [event]

    def after_step(self, event: StepEvent) -> None:
        self.events.append((event, event.losses()))

    def after_epoch(self, event: EpochEvent) -> None:
        self.events.append(event)

    def after_validation(self, event: ValidationEvent) -> None:
        self.events.append(event)

    def on_end(self) -> None:
        self.events.append("end")


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry[type[Observer]]:
    """The registered observers, with a recorder that is forgotten after the test."""
    torch.set_num_threads(1)
    OBSERVERS.names()
    monkeypatch.setattr(OBSERVERS, "_items", {**OBSERVERS._items, "recorder": Recorder})
    return OBSERVERS


def experiment(folder: Path, *overrides: str) -> Experiment:
    path = folder / "experiment.yaml"
    path.write_text(CONFIG)
    return Experiment.load(path, overrides=overrides)


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_an_observer_is_shown_the_run_in_order(tmp_path: Path) -> None:
    experiment(tmp_path, "observers={recorder: {}}").train(tmp_path / "run")
    start, *events, end = Recorder.events
    assert (start.folder, start.total, start.is_main) == (tmp_path / "run", 0, True)
    assert end == "end"
    kinds = [type(event[0] if isinstance(event, tuple) else event).__name__ for event in events]
    assert kinds == [*["StepEvent"] * 3, "EpochEvent", "ValidationEvent"] * 2
    steps = [event for event in events if isinstance(event, tuple)]
    assert [(event.epoch, event.batch, event.step, event.total) for event, _ in steps] == [
        (0, 1, 1, 1), (0, 2, 2, 2), (0, 3, 3, 3), (1, 1, 4, 4), (1, 2, 5, 5), (1, 3, 6, 6)
    ]  # fmt: skip
    for _, losses in steps:
        assert losses["loss"] == pytest.approx(0.3 * losses["ce"] + 0.7 * losses["kd"])


def test_epochs_and_validations_are_those_of_metrics_jsonl(tmp_path: Path) -> None:
    experiment(tmp_path, "observers={recorder: {}}").train(tmp_path / "run")
    written = rows(tmp_path / "run", "metrics.jsonl")
    shown = [event for event in Recorder.events if isinstance(event, (EpochEvent, ValidationEvent))]
    for row, event in zip(written, shown, strict=True):
        assert (row["stage"], row["epoch"], row["step"]) == (event.stage, event.epoch, event.step)
        if isinstance(event, EpochEvent):
            assert row["train"] == dict(event.train)
            assert [row["lr"]] == list(event.learning_rates)
        else:
            assert row["val"] == dict(event.metrics)


def test_gradient_norms_leave_the_student_and_its_metrics_as_they_are(tmp_path: Path) -> None:
    plain = experiment(tmp_path).train(tmp_path / "plain").run
    watched = experiment(tmp_path, "observers={gradient_norms: {every_steps: 2}}").train(tmp_path / "watched").run
    assert plain is not None
    assert watched is not None
    for name in ("student/model.safetensors",):
        assert (plain / name).read_bytes() == (watched / name).read_bytes()
    without_seconds = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in rows(run, "metrics.jsonl")]
        for run in (plain, watched)
    ]
    assert without_seconds[0] == without_seconds[1]
    lines = rows(watched, GradientNorms.FILE)
    assert [line["step"] for line in lines] == [1, 3, 5]
    assert all(set(line["norms"]) == {"ce", "kd"} and -1 <= line["cosines"]["ce/kd"] <= 1 for line in lines)


def test_a_resumed_run_has_the_lines_of_one_that_was_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopper(Observer):
        def after_step(self, event: StepEvent) -> None:
            if event.total == 5:
                raise Stopped("here", 15)

    monkeypatch.setitem(OBSERVERS._items, "stopper", Stopper)
    watching = "observers={gradient_norms: {every_steps: 1}}"
    whole = experiment(tmp_path, watching).train(tmp_path / "whole").run
    with pytest.raises(Stopped):
        experiment(tmp_path, "observers={gradient_norms: {every_steps: 1}, stopper: {}}").train(tmp_path / "cut")
    assert [row["total"] for row in rows(tmp_path / "cut", GradientNorms.FILE)] == [1, 2, 3, 4, 5]
    config = tmp_path / "cut" / "config.yaml"
    config.write_text(config.read_text().replace("stopper: {}", "").replace("  stopper:\n", ""))
    resume(tmp_path / "cut")
    assert whole is not None
    assert rows(tmp_path / "cut", GradientNorms.FILE) == rows(whole, GradientNorms.FILE)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("observers={gradient_nroms: {}}", "did you mean 'gradient_norms'"),
        ("observers={gradient_norms: {every: 2}}", "every_steps"),
        ("observers={gradient_norms: {every_steps: 0}}", "every_steps"),
        ("observers={gradient_norms: 3}", "a mapping of its hyperparameters"),
    ],
)
def test_a_wrong_observer_is_refused_before_anything_is_written(tmp_path: Path, given: str, said: str) -> None:
    with pytest.raises(KDError, match=said):
        experiment(tmp_path, given).train(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_observer_without_annotations_is_refused() -> None:
    with pytest.raises(KDError, match="annotation"):

        @OBSERVERS("careless")
        class Careless(Observer):
            def __init__(self, *, every=1) -> None: ...


def test_term_gradients_are_those_of_separate_backward_passes() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    terms = [layer(first).square().mean(), layer(second).abs().mean(), torch.tensor(1.0)]
    gradients = TermGradients(["a", "b", "constant"], layer.parameters())
    gradients.add(terms)
    assert list(gradients.mean()) == ["a", "b"]
    for name, term in (("a", terms[0]), ("b", terms[1])):
        layer.zero_grad()
        term.backward(retain_graph=True)
        expected = torch.cat([parameter.grad.flatten() for parameter in layer.parameters()])
        assert torch.equal(gradients.vectors[name], expected)


def test_only_observers_that_override_it_want_gradients() -> None:
    assert not Observers([Observer(), Recorder()]).may_want_gradients
    assert Observers([Observer(), GradientNorms()]).may_want_gradients


def test_a_bar_is_closed_when_a_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []
    monkeypatch.setattr(module.ProgressReport, "on_end", lambda self: ended.append(self))
    with pytest.raises(KDError, match="not finite"):
        experiment(tmp_path, "stages.distill.losses.kd.weight=1.0e+30", "stages.distill.optimizer.lr=1.0e+10").train(
            tmp_path / "run"
        )
    assert ended


@pytest.mark.slow
def test_gradients_of_compiled_models_are_right_too(tmp_path: Path) -> None:
    """PyTorch's caches may hold code whose graph can be walked once only: no run that walks it twice may get that."""
    compiled = "runtime={compile: [student, teacher]}"
    plain = experiment(tmp_path, compiled).train(tmp_path / "plain").run
    watching = "observers={gradient_norms: {every_steps: 1}}"
    watched = experiment(tmp_path, compiled, watching).train(tmp_path / "watched").run
    eager = experiment(tmp_path, watching).train(tmp_path / "eager").run
    assert plain is not None
    assert watched is not None
    assert eager is not None
    name = "student/model.safetensors"
    assert (plain / name).read_bytes() == (watched / name).read_bytes()
    for ours, expected in zip(rows(watched, GradientNorms.FILE), rows(eager, GradientNorms.FILE), strict=True):
        assert ours["norms"] == pytest.approx(expected["norms"], rel=1e-3)
