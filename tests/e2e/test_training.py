"""What a stage does, seen from outside: losses, weights, what changes and what does not."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from kd_core.config import Policy
from kd_core.device.seeding import derive, permutation, seeded
from kd_core.errors import KDError
from kd_core.evaluation import evaluate
from kd_core.experiment import Experiment, resume
from kd_core.models.registry import MODELS
from kd_core.observers import Observer, RunEvent, StepEvent
from kd_core.runs.progress import Reporter
from kd_core.train.components import Data
from kd_core.train.run import Result
from kd_core.train.validation import BestTracker

from .conftest import DIGITS, student_bytes, watched

Train = Callable[..., Result]
LINEAR = DIGITS.replace(
    "student: {arch: cnn, width: 4, depth: 2}",
    "student: !call:torch.nn.Sequential [!call:torch.nn.Flatten {}, !call:torch.nn.Linear [64, 10]]",
)


def weights(run: Path | None) -> dict[str, torch.Tensor]:
    assert run is not None
    return load_file(run / "student" / "model.safetensors")


def rows(run: Path | None, kind: str) -> list[dict[str, float]]:
    assert run is not None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[kind] for line in lines if kind in line]


@pytest.fixture
def steps() -> Iterator[list[float]]:
    """The loss of every step of the runs in a test."""
    seen: list[float] = []

    class Recorder(Observer):
        def after_step(self, event: StepEvent) -> None:
            seen.append(event.losses()["loss"])

    with watched(Recorder()):
        yield seen


def test_first_losses_equal_a_hand_written_loop(
    config: Callable[..., Path], tmp_path: Path, steps: list[float]
) -> None:
    experiment = Experiment.load(config(), overrides=["data.augment=shift", "stages.distill.epochs=3"])
    experiment.train(tmp_path / "run")

    there = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    student = MODELS.get("cnn")(width=4, depth=2).to(there)
    with seeded(derive(0, "model", "teacher")):
        teacher = MODELS.get("cnn")(width=8, depth=2).eval().to(there)
    data, splits = Data(experiment.plan, Policy(), Reporter(silent=True)).get(experiment.plan.data)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for epoch in range(3):
        order = permutation(len(splits.train), 0, "order", 0, epoch).split(32)
        for raw in splits.train.batches(order, epoch=epoch, seed=derive(0, "augment", 0), augment=True):
            batch = experiment.plan.task.prepare(raw.to(there), experiment.plan.inputs, data, training=True)
            images = batch.for_model("student")
            with torch.no_grad():
                soft = F.softmax(teacher(images) / 4, 1)
            logits = student(images)
            kl = F.kl_div(F.log_softmax(logits / 4, 1), soft, reduction="batchmean")
            loss = F.cross_entropy(logits, batch.target) + 16 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert len(losses) >= 20
    assert steps[:20] == pytest.approx(losses[:20], abs=1e-6)


def test_same_seed_same_student_another_seed_another(train: Train) -> None:
    first = train(DIGITS, out="a")
    assert student_bytes(first.run) == student_bytes(train(DIGITS, out="b").run)
    assert student_bytes(first.run) != student_bytes(train(DIGITS, "seed=1", out="c").run)


def test_the_resolved_config_reruns_the_run(train: Train, tmp_path: Path) -> None:
    first = train(DIGITS, "stages.distill.optimizer.lr=0.02", "seed=3", out="a")
    assert first.run is not None
    again = Experiment.load(first.run / "config.yaml").train(str(tmp_path / "b"))
    assert student_bytes(first.run) == student_bytes(again.run)
    assert resume(str(tmp_path / "b")).metrics == again.metrics


class Teachers(Observer):
    """The teacher's state at the beginning and at the end of a run."""

    def on_start(self, event: RunEvent) -> None:
        self.model = event.models["teacher"]
        self.first = {key: value.clone() for key, value in self.model.state_dict().items()}

    def on_end(self) -> None:
        self.last = {key: value.clone() for key, value in self.model.state_dict().items()}


def test_a_teacher_is_the_same_after_training(train: Train) -> None:
    with watched(teachers := Teachers()):
        train()
    assert all(torch.equal(teachers.first[key], teachers.last[key]) for key in teachers.first)


def test_a_teacher_in_train_mode_moves_its_statistics_only(train: Train) -> None:
    with watched(teachers := Teachers()):
        train(DIGITS, "models.teacher.mode=train")
    with seeded(derive(0, "model", "teacher")):
        fresh = MODELS.get("cnn")(width=8, depth=2).state_dict()
    changed = {key for key in fresh if not torch.equal(fresh[key], teachers.last[key])}
    assert changed
    assert all("running" in key or "num_batches" in key for key in changed)


def test_micro_batches_add_up_to_the_batch(train: Train, steps: list[float]) -> None:
    whole = weights(train(LINEAR, out="whole").run)
    first = list(steps)
    steps.clear()
    parts = weights(train(LINEAR, "stages.distill.accumulation_steps=5", out="parts").run)
    assert steps == pytest.approx(first, rel=1e-5)
    assert all(torch.allclose(whole[key], parts[key], atol=1e-6) for key in whole)


@pytest.mark.parametrize("pattern", ["student.layers.0", "student.layers.0.*", "class:Conv2d"])
def test_what_is_frozen_stays(train: Train, pattern: str) -> None:
    after = weights(train(DIGITS, f"stages.distill.freeze=['{pattern}']", "data.val=0").run)
    torch.manual_seed(0)
    fresh = MODELS.get("cnn")(width=4, depth=2).state_dict()
    frozen = {
        key for key in fresh if key.startswith("layers.0.") or (pattern.startswith("class") and ".0.weight" in key)
    }
    if pattern.startswith("class"):
        frozen = {key for key in fresh if fresh[key].dim() == 4}
    assert all(torch.equal(after[key], fresh[key]) for key in frozen)
    assert any(not torch.equal(after[key], fresh[key]) for key in set(fresh) - frozen)


def test_a_stage_that_trains_adapters_alone_leaves_and_does_not_score_the_student(train: Train) -> None:
    text = DIGITS.replace(
        "stages:", "adapters:\n  proj: {module: projector, inputs: teacher.layers.1, out_features: 16}\nstages:"
    )
    text = text.replace(
        "      ce: {loss: cross_entropy}\n      kd: {loss: kd, temperature: 4.0}",
        "      back: {loss: mse, student: adapters.proj, teacher: teacher.layers.1}",
    )
    result = train(text, "data.labelled=10")
    torch.manual_seed(0)
    fresh = MODELS.get("cnn")(width=4, depth=2).state_dict()
    after = weights(result.run)
    assert all(torch.equal(after[key], fresh[key]) for key in fresh)
    assert rows(result.run, "val") == []
    losses = [row["back"] for row in rows(result.run, "train")]
    assert losses[1] < losses[0]


def test_a_moving_average_is_scored_and_exported(train: Train) -> None:
    shadow: dict[str, torch.Tensor] = {}

    class Follower(Observer):
        def on_start(self, event: RunEvent) -> None:
            self.student = event.models["student"]

        def after_step(self, event: StepEvent) -> None:
            for key, value in self.student.state_dict().items():
                averaged = key in shadow and "running" not in key and "num" not in key
                shadow[key] = 0.9 * shadow[key] + 0.1 * value if averaged else value.clone()

    with watched(Follower()):
        result = train(DIGITS, "stages.distill.ema=0.9", "data.val=0")
    after = weights(result.run)
    assert all(torch.allclose(after[key], shadow[key], atol=1e-6) for key in shadow)


def test_several_teachers_and_a_mutual_pair(train: Train) -> None:
    text = """
task: image_classification
data: {name: digits, limit: 200, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 2}
  peer: {arch: cnn, width: 4, depth: 2, trainable: true}
  wide: {arch: cnn, width: 8, depth: 2, weights: null}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy}
      peer_ce: {loss: cross_entropy, student: peer.output}
      from_peer: {loss: kd, teacher: peer.output, detach: teacher, temperature: 1.0}
      to_peer: {loss: kd, student: peer.output, teacher: student.output, detach: teacher, temperature: 1.0}
      from_wide: {loss: kd, teacher: wide.output, weight: 0.1}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""
    first, last = rows(train(text).run, "train")
    assert last["ce"] < first["ce"]
    assert last["peer_ce"] < first["peer_ce"]
    assert first["from_peer"] > 0  # the peers begin from different weights


def test_a_loss_that_is_not_finite_stops_the_run_and_is_named(train: Train, tmp_path: Path) -> None:
    with pytest.raises(
        KDError, match=r"(?s)stages\.distill: step \d+: not finite: .*kd.*the weighted sum.*indices: \d+, \d+"
    ):
        train(DIGITS, "stages.distill.losses.kd.weight=1.0e+30", "stages.distill.optimizer.lr=1.0e+10")
    assert not (tmp_path / "run" / "result.json").exists()


def test_early_stopping_and_the_best_epoch(train: Train) -> None:
    result = train(
        DIGITS,
        "stages.distill.epochs=50",
        "stages.distill.optimizer.lr=0.0",
        "stages.distill.early_stopping={patience: 3}",
    )
    scores = rows(result.run, "val")
    assert len(scores) == 4
    assert result.best is not None
    assert result.best["epoch"] == max(range(4), key=lambda epoch: (scores[epoch]["top1"], -epoch)) + 1


def test_the_least_loss_can_be_the_best(train: Train) -> None:
    result = train(DIGITS, "stages.distill.monitor={metric: loss, mode: min}")
    assert result.best is not None
    assert result.best["metrics"]["loss"] == min(row["loss"] for row in rows(result.run, "val"))


@pytest.mark.parametrize(
    ("best", "value", "better"),
    [(None, -0.5, True), (None, 0.0, True), (-0.5, -0.4, True), (0.0, 0.0, False), (None, float("nan"), False)],
)
def test_a_score_at_or_below_zero_counts(best: float | None, value: float, better: bool) -> None:
    assert BestTracker(True, best).improved(value) is better


def test_steps_in_the_place_of_epochs(train: Train) -> None:
    result = train(DIGITS, "stages.distill.epochs=null", "stages.distill.steps=11")
    assert result.run is not None
    lines = [json.loads(line) for line in (result.run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train" in line] == [9, 11]


def test_scoring_by_steps_and_schedules_by_step(train: Train) -> None:
    linear = "!call:torch.optim.lr_scheduler.LinearLR {total_iters: !run steps}"
    scheduler = f"stages.distill.scheduler={{call: {linear}, interval: step}}"
    result = train(DIGITS, "stages.distill.validate={every_steps: 4}", scheduler)
    assert len(rows(result.run, "val")) == 18 // 4
    assert result.run is not None
    rates = [
        json.loads(line)["lr"]
        for line in (result.run / "metrics.jsonl").read_text().splitlines()
        if "lr" in json.loads(line)
    ]
    assert rates[0] < rates[1] == pytest.approx(0.05)


def test_parameter_groups(train: Train) -> None:
    groups = (
        "stages.distill.optimizer={call: !call:torch.optim.SGD {lr: 0.05}, groups: [{params: student.fc, lr: 0.0}]}"
    )
    after = weights(train(DIGITS, groups, "data.val=0").run)
    torch.manual_seed(0)
    fresh = MODELS.get("cnn")(width=4, depth=2).state_dict()
    assert torch.equal(after["fc.weight"], fresh["fc.weight"])
    assert not torch.equal(after["layers.0.0.weight"], fresh["layers.0.0.weight"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.distill.freeze=['student.layrs']", r"stages\.distill\.freeze\.0: .*layrs"),
        ("stages.distill.train=['adapters.none']", r"stages\.distill\.train\.0: .*none"),
        ("stages.distill.freeze=[student]", "nothing is left to train"),
        ("stages.distill.optimizer={call: !call:torch.optim.SGD {lr: 0.1}, groups: [{params: '*.gamma'}]}", "gamma"),
        (
            "stages.distill.monitor={metric: f1, mode: max}",
            "(?s)stages.distill.monitor.metric: there is no metric 'f1'.*top1",
        ),
    ],
)
def test_what_only_a_run_can_tell_is_one_error(train: Train, override: str, message: str) -> None:
    with pytest.raises(KDError, match=message):
        train(DIGITS, override)


def test_the_student_loads_with_plain_torch_and_scores_the_same(train: Train) -> None:
    result = train()
    assert result.run is not None
    model = MODELS.get("cnn")(width=4, depth=2)
    model.load_state_dict(load_file(result.run / "student" / "model.safetensors"))
    assert evaluate(result.run).metrics == result.metrics
    assert isinstance(model, nn.Module)


def test_a_students_run_is_another_runs_teacher(train: Train) -> None:
    first = train(out="first")
    second = train(DIGITS, f"models.teacher={{run: {first.run}}}", out="second")
    assert second.run is not None
    assert f"weights from {first.run}" in (second.run / "log.txt").read_text()


def test_nothing_of_a_step_outlives_it(train: Train) -> None:
    counts = []

    class Counter(Observer):
        def after_step(self, event: StepEvent) -> None:
            gc.collect()
            counts.append(sum(type(each) is torch.Tensor for each in gc.get_objects()))

    with watched(Counter()):
        train(DIGITS, "data.limit=128", "data.val=0", "stages.distill.epochs=3")
    assert len(set(counts[2:])) == 1, counts


def test_a_run_keeps_absolute_paths_and_the_places_of_its_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.yaml").write_text(DIGITS)
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.load("c.yaml")
    pinned = experiment.pinned()
    assert pinned.document.data["data"] == {**experiment.document.data["data"], "root": str(Path.cwd() / "data")}
    assert pinned.plan.data.root == str(Path.cwd() / "data")
    assert pinned.document.mark(("data", "name")).file == "c.yaml"
