"""The loop: which steps it makes, what it shows, and that its weights are those of a loop written by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.config import Policy
from kd_core.data.batch import STUDENT
from kd_core.device.runtime import Runtime
from kd_core.device.seeding import derive, permutation, seed_everything, seeded
from kd_core.errors import KDError
from kd_core.observers import EpochEvent, Observer, StepEvent, ValidationEvent
from kd_core.plan.plan import Plan
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.runs.stop import Stopped, StopRequest
from kd_core.train.components import Components, Data
from kd_core.train.loop import StageRunner
from kd_core.train.observers import Observers
from kd_core.train.progress import Progress, RunContext

Planned = Callable[..., Plan]
TRAIN = "stages.distill"


class Recorder(Observer):
    """Keeps what it is shown, and calls a function after each step."""

    def __init__(self, then: Callable[[StepEvent], None] = lambda event: None) -> None:
        self.steps: list[StepEvent] = []
        self.epochs: list[EpochEvent] = []
        self.validations: list[ValidationEvent] = []
        self.then = then

    def after_step(self, event: StepEvent) -> None:
        self.steps.append(event)
        self.then(event)

    def after_epoch(self, event: EpochEvent) -> None:
        self.epochs.append(event)

    def after_validation(self, event: ValidationEvent) -> None:
        self.validations.append(event)


Start = Callable[..., tuple[StageRunner, Recorder]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A stage of a plan, built in a run folder and not yet begun, with what watches it."""

    def build(plan: Plan, out: str = "run", *, stage: int = 0, resumed: bool = False) -> tuple[StageRunner, Recorder]:
        reporter = Reporter(silent=True)
        data = Data(plan, Policy(), reporter)
        components = Components(plan, Policy(), Runtime(plan.runtime), data, reporter)
        path = tmp_path / out
        folder = RunFolder(path) if resumed else RunFolder.create(plan.name, plan.seed, path)
        store = CheckpointStore(folder.checkpoints)
        recorder = Recorder()
        context = RunContext(components, folder, store, reporter, StopRequest(), Progress(), Observers([recorder]))
        found = store.latest(reporter.info) if resumed else None
        if found is not None:
            context.progress, context.best = Progress(**found[0]["progress"]), found[0]["best"]
        seed_everything(plan.seed)
        runner = StageRunner(context, plan.stages[stage])
        if found is not None:
            runner.load(*found)
        return runner, recorder

    return build


def student_of(runner: StageRunner) -> nn.Module:
    return runner.context.components.models[STUDENT]


def weights(runner: StageRunner) -> dict[str, Tensor]:
    """A copy of the student's weights."""
    return {key: value.clone() for key, value in student_of(runner).state_dict().items()}


def by_hand(plan: Plan, epochs: int = 2, batch_size: int = 8) -> dict[str, Tensor]:
    """The student's weights by a loop that knows nothing of this project but the order of the samples."""
    torch.manual_seed(plan.seed)
    student = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with seeded(derive(plan.seed, "model", "teacher")):
        teacher = nn.Linear(3, 2)
    points = torch.randn(plan.data.samples, 3, generator=torch.Generator().manual_seed(plan.seed))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for epoch in range(epochs):
        for rows in permutation(len(points), plan.seed, "order", 0, epoch).split(batch_size):
            output, expected = student(points[rows]), teacher(points[rows]).detach()
            kl = F.kl_div(F.log_softmax(output / 4, 1), F.softmax(expected / 4, 1), reduction="batchmean")
            loss = F.cross_entropy(output, (points[rows, 0] > 0).long()) + 16 * kl
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return student.state_dict()


def test_its_weights_are_those_of_a_loop_written_by_hand(planned: Planned, start: Start) -> None:
    plan = planned()
    runner, _ = start(plan)
    runner.run()
    trained, expected = weights(runner), by_hand(plan)
    for key, value in expected.items():
        torch.testing.assert_close(trained[key], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_micro_batches_add_up_to_the_batch_they_are_cut_from(planned: Planned, start: Start, parts: int) -> None:
    """The last batch of an epoch has 4 samples: some of 8 micro-batches are empty then."""
    plan = planned()
    runner, recorder = start(planned(f"{TRAIN}.accumulation_steps={parts}"))
    runner.run()
    assert len(recorder.steps) == 6
    for key, value in by_hand(plan).items():
        torch.testing.assert_close(weights(runner)[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "epochs", "steps"),
    [
        ([], [0, 0, 0, 1, 1, 1], [3, 6]),
        ([f"{TRAIN}.drop_last=true"], [0, 0, 1, 1], [2, 4]),
        ([f"{TRAIN}.epochs=null", f"{TRAIN}.steps=4"], [0, 0, 0, 1], [3, 4]),
        ([f"{TRAIN}.epochs=1", f"{TRAIN}.batch_size=64"], [0], [1]),
    ],
)
def test_how_many_steps_and_epochs_there_are(
    planned: Planned, start: Start, overrides: list[str], epochs: list[int], steps: list[int]
) -> None:
    runner, recorder = start(planned(*overrides))
    runner.run()
    assert [event.epoch for event in recorder.steps] == epochs
    assert [event.step for event in recorder.steps] == list(range(1, len(epochs) + 1))
    assert [event.step for event in recorder.epochs] == steps
    assert {event.epochs for event in recorder.steps} == {len(steps)}
    assert (runner.progress.step, runner.progress.batch) == (len(epochs), 0)


def test_the_means_of_an_epoch_are_over_its_samples(planned: Planned, start: Start) -> None:
    runner, recorder = start(planned(f"{TRAIN}.losses.kd.weight=0.25"))
    runner.run()
    losses = [event.losses() for event in recorder.steps]
    for epoch, steps in zip(recorder.epochs, (losses[:3], losses[3:]), strict=True):
        for name in ("ce", "kd", "loss"):
            mean = sum(loss[name] * size for loss, size in zip(steps, [8, 8, 4], strict=True)) / 20
            assert epoch.train[name] == pytest.approx(mean, rel=1e-6)
    for loss in losses:
        assert loss["loss"] == pytest.approx(loss["ce"] + 0.25 * loss["kd"], rel=1e-6)


def test_a_teacher_runs_once_a_step_and_stays_as_it_was(planned: Planned, start: Start) -> None:
    runner, _ = start(planned())
    teacher = runner.context.components.models["teacher"]
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    passes: list[bool] = []
    teacher.register_forward_hook(lambda module, inputs, output: passes.append(module.training))
    runner.run()
    assert passes == [False] * 6
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_every_step_is_in_training_mode_though_validations_come_between(planned: Planned, start: Start) -> None:
    runner, recorder = start(planned(f"{TRAIN}.validate={{every_steps: 1}}"))
    student_of(runner).eval()
    modes: list[bool] = []
    student_of(runner).register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    runner.run()
    assert len(recorder.validations) == 6
    assert modes == [True, False] * 6


def test_samples_are_augmented_by_seed_and_epoch(planned: Planned, start: Start) -> None:
    plan = planned("seed=3", "stages.tune={epochs: 1}", f"{TRAIN}.validate={{every_epochs: 9}}")
    for stage, epochs in ((0, [0, 1]), (1, [0])):
        runner, _ = start(plan, str(stage), stage=stage)
        train: Any = runner.stage.splits.train
        train.asked.clear()
        runner.run()
        assert train.asked == [(epoch, derive(3, "augment", stage), True) for epoch in epochs]


def test_scorings_leave_the_weights_as_they_would_be_without(planned: Planned, start: Start) -> None:
    dropout = {"!call:torch.nn.Tanh {}": "!call:torch.nn.Dropout {p: 0.5}"}
    runner, _ = start(planned(f"{TRAIN}.validate={{every_steps: 1}}", replaced=dropout), "often")
    runner.run()
    other, _ = start(planned(f"{TRAIN}.validate={{every_epochs: 9}}", replaced=dropout), "seldom")
    other.run()
    assert all(torch.equal(value, weights(other)[key]) for key, value in weights(runner).items())


def test_early_stopping_ends_the_stage(planned: Planned, start: Start) -> None:
    still = f"{TRAIN}.optimizer=!call:torch.optim.SGD {{lr: 0.0}}"
    runner, recorder = start(planned(still, f"{TRAIN}.epochs=50", f"{TRAIN}.early_stopping={{patience: 2}}"))
    runner.run()
    assert [event.best for event in recorder.validations] == [True, False, False]
    assert [event.stopping for event in recorder.validations] == [False, False, True]
    assert runner.progress.stopped
    assert len(recorder.epochs) == 3


def test_the_best_student_is_kept(planned: Planned, start: Start) -> None:
    runner, recorder = start(planned(f"{TRAIN}.epochs=6", "data.samples=80"))
    runner.run()
    scores = [event.metrics["accuracy"] for event in recorder.validations]
    assert runner.context.best is not None
    assert runner.context.best["metrics"]["accuracy"] == max(scores)
    assert runner.context.best["epoch"] == scores.index(max(scores)) + 1
    assert runner.progress.best == max(scores)


def test_gradients_are_clipped(planned: Planned, start: Start) -> None:
    steps = [f"{TRAIN}.epochs=null", f"{TRAIN}.steps=1", f"{TRAIN}.validate={{every_epochs: 9}}"]
    for clip, norm in ((f"{TRAIN}.max_grad_norm=0.01", 2.0), (f"{TRAIN}.max_grad_value=0.001", float("inf"))):
        runner, _ = start(planned(*steps, clip), clip.partition("=")[0])
        before = weights(runner)
        runner.run()
        moved = torch.cat([(value - before[key]).flatten() for key, value in weights(runner).items()])
        assert moved.norm(norm).item() == pytest.approx(0.1 * float(clip.partition("=")[2]), rel=1e-3)


@pytest.mark.parametrize(("interval", "rates"), [("epoch", [0.1, 0.05]), ("step", [0.0125, 0.1 / 2**6])])
def test_a_scheduler_steps_at_its_interval(planned: Planned, start: Start, interval: str, rates: list[float]) -> None:
    """The rates that an epoch's event shows are those before an epoch's own step of the scheduler."""
    halves = "!call:torch.optim.lr_scheduler.ExponentialLR {gamma: 0.5}"
    runner, recorder = start(planned(f"{TRAIN}.scheduler={{call: {halves}, interval: {interval}}}"))
    runner.run()
    assert [event.learning_rates[0] for event in recorder.epochs] == pytest.approx(rates)


def test_a_moving_average_follows_the_weights(planned: Planned, start: Start) -> None:
    runner, recorder = start(planned(f"{TRAIN}.ema=0.75"))
    passed: list[dict[str, Tensor]] = []
    recorder.then = lambda event: passed.append(weights(runner))
    runner.run()
    average = passed[0]
    for now in passed[1:]:
        average = {key: 0.75 * value + 0.25 * now[key] for key, value in average.items()}
    for key, value in runner.stage.averaged.state_dict().items():
        torch.testing.assert_close(value, average[key])


def test_weights_of_terms_follow_their_schedules(planned: Planned, start: Start) -> None:
    fading = "{schedule: linear, start: 1.0, end: 0.0}"
    runner, recorder = start(planned(f"{TRAIN}.losses.kd.weight={fading}"))
    runner.run()
    shares = [(losses["loss"] - losses["ce"]) / losses["kd"] for losses in (event.losses() for event in recorder.steps)]
    assert shares[0] == pytest.approx(1.0, abs=1e-4)
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 0.3


def test_a_loss_that_is_not_finite_ends_the_run_with_the_samples_that_made_it(planned: Planned, start: Start) -> None:
    runner, recorder = start(planned(f"{TRAIN}.optimizer=!call:torch.optim.SGD {{lr: 1.0e+38}}"))
    with pytest.raises(KDError, match=r"(?s)step \d+: not finite: .*the batch's indices: ") as caught:
        runner.run()
    order = permutation(20, 0, "order", 0, 0).split(8)
    assert any(", ".join(str(int(row)) for row in rows) in str(caught.value) for rows in order)
    assert len(recorder.steps) < 6


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_stage_stopped_anywhere_ends_with_the_same_weights(planned: Planned, start: Start, at: int) -> None:
    options = [f"{TRAIN}.accumulation_steps=2", f"{TRAIN}.ema=0.5", f"{TRAIN}.optimizer.momentum=0.9"]
    dropout = {"!call:torch.nn.Tanh {}": "!call:torch.nn.Dropout {p: 0.5}"}
    plan = planned(*options, replaced=dropout)
    whole, watched = start(plan, "whole")
    whole.run()
    cut, recorder = start(plan, "cut")

    def stop(event: StepEvent) -> None:
        if event.total == at:
            cut.context.stop.number = 15

    recorder.then = stop
    with pytest.raises(Stopped, match=f"step {at} of stage 'distill'"):
        cut.run()
    again, rest = start(plan, "cut", resumed=True)
    again.run()
    assert [event.total for event in recorder.steps + rest.steps] == [1, 2, 3, 4, 5, 6]
    assert [event.losses() for event in recorder.steps + rest.steps] == [event.losses() for event in watched.steps]
    for key, value in weights(whole).items():
        assert torch.equal(weights(again)[key], value), key
    for key, value in whole.stage.averaged.state_dict().items():
        assert torch.equal(again.stage.averaged.state_dict()[key], value), key


def test_a_stage_without_the_student_is_neither_scored_nor_kept(planned: Planned, start: Start) -> None:
    adapted = {
        "stages:": "adapters:\n  fit: {module: projector, inputs: teacher.output, out_features: 2}\nstages:",
        "ce: {loss: cross_entropy}": "ce: {loss: cross_entropy, student: adapters.fit}",
        "      kd: {loss: kd, temperature: 4.0}\n": "",
    }
    runner, recorder = start(planned(replaced=adapted))
    before = weights(runner)
    runner.run()
    assert len(recorder.epochs) == 2
    assert recorder.validations == []
    assert runner.context.best is None
    assert all(torch.equal(value, before[key]) for key, value in weights(runner).items())


def test_a_stage_lets_go_of_the_models_it_wrapped(planned: Planned, start: Start) -> None:
    runner, _ = start(planned(f"{TRAIN}.losses.hint={{loss: mse, student: student.2, teacher: teacher.output}}"))
    runner.run()
    seen: list[Any] = []
    student = student_of(runner)
    student[0].register_forward_hook(lambda *_: seen.append(1))  # type: ignore[index]
    student(torch.zeros(1, 3))
    assert seen == [1]
    assert all(parameter.grad is None for parameter in student.parameters())
