"""One batch, cut into micro-batches or among processes, gives the gradients that it gives whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.core.train.test_loop import TRAIN, Planned, Start, start, student_of, weights
from torch import Tensor

from kd_core.device.distributed import MicroBatchShard, even_slices
from kd_core.errors import KDError
from kd_core.losses.reduction import check_shapes, count_of
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.taps.wrappers import OUTPUT, Capture
from kd_core.train import objective as objective_module
from kd_core.train.objective import StepInfo

__all__ = ["start"]

INPUTS = ", input: student.output, target: batch.target}"
LOSSES = [
    "{loss: cross_entropy}",
    "{loss: cross_entropy, class_weights: [0.2, 5.0], label_smoothing: 0.1}",
    "{loss: !call:torch.nn.CrossEntropyLoss {ignore_index: 1}" + INPUTS,
    "{loss: !call:torch.nn.CrossEntropyLoss {label_smoothing: 0.2, weight: !call:torch.tensor {data: [0.2, 5.0]}}"
    + INPUTS,
    "{loss: !call:torch.nn.MSELoss {}, input: student.output, target: teacher.output}",
    "{loss: !get:torch.nn.functional.smooth_l1_loss , input: student.output, target: teacher.output}",
    "{loss: kd, mask: batch.target}",
    "{loss: cosine, mask: batch.target}",
]
every_loss = pytest.mark.parametrize("loss", LOSSES)


def replaced(planned: Planned, loss: str, *overrides: str) -> Plan:
    return planned(f"{TRAIN}.losses={{it: {loss}}}", *overrides)


@every_loss
def test_micro_batches_add_up_to_their_batch(planned: Planned, start: Start, loss: str) -> None:
    trained = []
    for steps in (1, 4):
        runner, _ = start(replaced(planned, loss, f"{TRAIN}.accumulation_steps={steps}"), f"run{steps}")
        runner.run()
        trained.append(weights(runner))
    for parts in trained[1:]:
        for key, value in trained[0].items():
            torch.testing.assert_close(parts[key], value, rtol=1e-5, atol=1e-6)


@every_loss
@pytest.mark.parametrize("processes", [2, 16])
def test_the_mean_of_processes_is_that_of_the_batch(
    planned: Planned, start: Start, monkeypatch: pytest.MonkeyPatch, loss: str, processes: int
) -> None:
    """Of 16 processes half have no row of their own, and compute on one that counts nothing."""
    runner, _ = start(replaced(planned, loss))
    objective, student = runner.stage.objective, student_of(runner)
    teacher = runner.context.components.models["teacher"]
    raw = next(runner.stage.splits.train.batches([torch.arange(8)], epoch=0, seed=0, augment=False))

    def gradient(positions: Tensor, shard: MicroBatchShard, rank: int) -> list[Tensor]:
        monkeypatch.setattr("kd_core.device.distributed.rank", lambda: rank)
        monkeypatch.setattr(objective_module, "rank", lambda: rank)
        batch = runner._prepared(raw.take(positions))
        outputs = student(batch.for_model("student")), teacher(batch.for_model("teacher")).detach()
        captures = {n: Capture(out, {OUTPUT: out}) for n, out in zip(("student", "teacher"), outputs, strict=True)}
        [shares] = objective.shares([batch], [shard])
        total, _ = objective(captures, batch, StepInfo(0, 1, 1), shard, shares)
        return list(torch.autograd.grad(total, list(student.parameters())))

    whole = gradient(torch.arange(8), MicroBatchShard((8,), 8), 0)
    rows = even_slices(8, processes)
    shard = MicroBatchShard(tuple(part.stop - part.start for part in rows), 8)
    monkeypatch.setattr(objective_module, "world_size", lambda: processes)
    everything = count_everything(objective, [runner._prepared(raw)])
    monkeypatch.setattr(objective_module, "all_reduce_sum_", lambda own: everything.expand_as(own))
    parts = []
    for rank, part in enumerate(rows):
        own = torch.arange(8)[part]
        parts.append(gradient(own if len(own) else torch.arange(1), shard, rank))
    for expected, *values in zip(whole, *parts, strict=True):
        torch.testing.assert_close(torch.stack(values).mean(0), expected, rtol=1e-5, atol=1e-6)


def count_everything(objective: objective_module.Objective, batches: list[object]) -> Tensor:
    """What the term divides by in the whole batch."""
    values = objective_module.WireResolver({}, batches[0], objective.adapters)
    divisor = objective.terms[0].divisor(values)
    return torch.ones(()) if divisor is None else divisor.float()


@pytest.mark.parametrize(
    "loss",
    [
        "{loss: similarity_preserving, student: student.output, teacher: teacher.output}",
        "{loss: norm_penalty, input: student.output}",
        "{loss: kd, mask: student.output/0}",
        "{loss: !call:torch.nn.MSELoss {reduction: sum}, input: student.output, target: teacher.output}",
    ],
)
def test_what_relates_samples_refuses_micro_batches(planner: Callable[..., Planner], loss: str) -> None:
    problems = []
    for steps in (1, 2):
        made = planner(f"{TRAIN}.losses={{it: {loss}}}", f"{TRAIN}.accumulation_steps={steps}")
        made.plan()
        problems.append([f"{problem.path}: {problem.message}" for problem in made.problems])
    text = "the loss 'it' relates the samples of a batch to one another, and would see those of one micro-batch"
    assert problems == [[], [f"{TRAIN}.accumulation_steps: {text}"]]


def test_a_built_loss_that_relates_samples_refuses_micro_batches(planned: Planned, start: Start) -> None:
    loss = "{loss: !get:torch.nn.functional.soft_margin_loss , input: student.output, target: teacher.output}"
    plan = replaced(planned, loss, f"{TRAIN}.accumulation_steps=2")
    with pytest.raises(KDError, match="the loss 'it' relates the samples of a batch"):
        start(plan)


def test_a_loss_that_says_nothing_sees_the_whole_batch() -> None:
    assert count_of(lambda student: student.mean()) is None
    assert count_of(torch.nn.CosineSimilarity()) is None
    assert count_of(torch.nn.MSELoss(reduction="sum")) is None
    assert count_of(torch.nn.BCEWithLogitsLoss()) is not None


@pytest.mark.parametrize("loss", [torch.nn.MSELoss(), torch.nn.KLDivLoss(), torch.nn.functional.l1_loss])
def test_inputs_that_would_broadcast_are_refused(loss: Callable[..., Tensor]) -> None:
    check_shapes(loss, {"input": torch.ones(4, 1), "target": torch.ones(4, 1)})
    with pytest.raises(KDError, match=r"input \(4, 1\) and target \(4,\) must have the same shape: \w+ compares"):
        check_shapes(loss, {"input": torch.ones(4, 1), "target": torch.ones(4)})


def test_a_term_refuses_inputs_that_would_broadcast(planned: Planned, start: Start, tmp_path: Path) -> None:
    loss = "{loss: !call:torch.nn.MSELoss {}, input: student.output, target: batch.target}"
    runner, _ = start(replaced(planned, loss))
    with pytest.raises(KDError, match=r"stages.distill.losses.it: input \(8, 2\) and target \(8,\) must have"):
        runner.run()
