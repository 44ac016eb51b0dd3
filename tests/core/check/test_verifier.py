"""The verifier: what it finds by following a plan on dummy samples, without data, weights or memory for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.check.verifier import verify
from kd_core.config import Policy, loads
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.models.registry import MODELS
from kd_core.plan.plan import Plan

Planned = Callable[..., Plan]
CE = "stages.distill.losses.ce"


def said(plan: Plan, *, whole: bool = True) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Paths and messages of the problems, and of what could not be verified."""
    problems, unverified = verify(plan, Policy(), whole=whole)
    return [(each.path, each.message) for each in problems], [(each.path, each.message) for each in unverified]


def test_a_sound_plan_has_no_problems(planned: Planned) -> None:
    assert said(planned()) == ([], [])


def test_wires_are_followed_where_the_task_is_not_known(planned: Planned) -> None:
    plan = planned("stages.distill.losses.kd.teacher=teacher.99")
    (problem,), _ = said(replace(plan, task=None), whole=False)
    assert problem[0] == "stages.distill.losses.kd.teacher"


def test_a_task_that_there_is_not_is_said() -> None:
    text = "{task: nothing, models: {student: !call:torch.nn.Linear [3, 2]}, stages: {a: {epochs: 1, batch_size: 2}}}"
    with pytest.raises(KDError, match="there is no task 'nothing'"):
        Experiment.planned(loads(text), Policy())


class OneSample(nn.Module):
    """Batch norm over the first sample in ``of``, whose values are those of the others."""

    def __init__(self, *, of: int) -> None:
        super().__init__()
        self.norm, self.head, self.of = nn.BatchNorm1d(3), nn.Linear(3, 2), of

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.norm(inputs[:: self.of])).mean(0).expand(len(inputs), 2)


@pytest.mark.parametrize(("of", "too_few"), [(2, False), (8, True)])
def test_batch_norm_that_sees_one_value_is_tried_on_more_samples(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, of: int, too_few: bool
) -> None:
    """One of two samples leaves it one value a channel, of which there is no variance, and so does one of eight."""
    monkeypatch.setitem(MODELS._items, "one_sample", OneSample)
    problems, unverified = said(planned(f"models.student={{arch: one_sample, of: {of}}}"))
    assert unverified == []
    message = "batch norm in training mode has one value a channel on a batch of 8 samples"
    assert problems == ([("models.student", message)] if too_few else [])


def test_every_stage_is_followed(planned: Planned) -> None:
    plan = planned(
        "stages.tune={epochs: 1, losses: {ce: {loss: cross_entropy, student: student.9}}}",
        "stages.last={epochs: 1, losses: {hint: {loss: mse, student: student.0, teacher: teacher.output}}}",
    )
    problems, unverified = said(plan)
    assert [path for path, _ in problems] == ["stages.tune.losses.ce.student", "stages.last.losses.hint.student"]
    assert "no module '9'" in problems[0][1]
    assert "(2, 4)" in problems[1][1]
    assert "(2, 2)" in problems[1][1]
    assert unverified == []


def test_random_states_and_the_models_memory_are_left_alone(planned: Planned) -> None:
    """A layer of 40 GB is checked: nothing of it is ever there."""
    widths = [(3, 100_000), (100_000, 100_000), (100_000, 2)]
    layers = ", ".join(f"!call:torch.nn.Linear [{before}, {after}]" for before, after in widths)
    state = torch.get_rng_state()
    assert said(planned(f"models.teacher=!call:torch.nn.Sequential [{layers}]")) == ([], [])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("overrides", "path", "parts"),
    [
        (["models.student=!call:torch.nn.Linear [5, 2]"], "models.student", ["forward failed", "(2, 3)"]),
        (["models.student=!call:torch.nn.Linear [-3, 2]"], "models.student", ["negative dimension -3"]),
        (["stages.distill.losses.kd.student=student.0"], "stages.distill.losses.kd.student", ["(2, 4)", "(2, 2)"]),
        ([f"{CE}={{loss: cross_entropy, student: student.0.0}}"], f"{CE}.student", ["no module '0.0'"]),
        ([f"{CE}={{loss: cross_entropy, student: student.output/logits}}"], f"{CE}.student", ["'logits'"]),
        ([f"{CE}={{loss: cross_entropy, target: batch.label}}"], f"{CE}.target", ["'label'", "target"]),
        (["stages.distill.freeze=[student]"], "stages.distill.optimizer", ["nothing is left to train"]),
        (["stages.distill.train=[nobody]"], "stages.distill.train.0", ["'nobody'"]),
        (["stages.distill.monitor={metric: top1, mode: max}"], "stages.distill.monitor.metric", ["'top1'"]),
        (["stages.distill.optimizer=!call:torch.optim.SGD {lr: -1.0}"], "stages.distill.optimizer", ["-1.0"]),
        (
            ["stages.distill.scheduler=!call:torch.optim.lr_scheduler.StepLR {step_size: 0}"],
            "stages.distill.scheduler",
            ["step 1 of StepLR failed"],
        ),
    ],
)
def test_a_mistake_is_found_at_its_place(planned: Planned, overrides: list[str], path: str, parts: list[str]) -> None:
    problems, _ = said(planned(*overrides))
    assert [where for where, _ in problems] == [path], problems
    assert all(part in problems[0][1] for part in parts), problems


def test_samples_that_a_model_cannot_take_are_told_before_it_runs(
    planned: Planned, points: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_model(self: Any, model: nn.Module, wants: Any, data: Any) -> None:
        raise AssertionError("only training checks what is built against the data")

    monkeypatch.setattr(points, "check_model", check_model)
    assert said(planned("data.width=5"))[0][0][0] == "models.student"
    assert said(planned()) == ([], [])


def test_what_only_reading_the_data_tells_is_unverified_and_modules_are_looked_up(
    planned: Planned,
) -> None:
    problems, unverified = said(planned("data.hidden=true", f"{CE}.student=student.0"))
    assert problems == []
    assert [path for path, _ in unverified] == ["stages.distill.data"]
    problems, unverified = said(planned("data.hidden=true", f"{CE}.student=student.7"))
    assert [path for path, _ in problems] == [f"{CE}.student"]
    assert len(unverified) == 1


def test_what_training_alone_builds_is_unverified(planned: Planned, tmp_path: Any) -> None:
    problems, unverified = said(planned(f"models.teacher={{run: {tmp_path}}}"))
    assert problems == []
    assert [path for path, _ in unverified] == ["models.teacher"]


def test_of_a_plan_in_part_only_the_modules_are_looked_up(planned: Planned) -> None:
    plan = planned(f"{CE}.student=student.0.9", "stages.distill.losses.kd.student=student.0")
    assert [path for path, _ in said(plan, whole=False)[0]] == [f"{CE}.student"]
    assert said(planned("stages.distill.losses.kd.student=student.0"), whole=False) == ([], [])


ADAPTED = {
    "stages:": """adapters:
  fit: {module: projector, inputs: student.0, match: teacher.output}
stages:"""
}


def test_adapters_are_built_from_the_shapes_of_what_they_read(planned: Planned) -> None:
    hint = "stages.distill.losses.hint={loss: mse, student: adapters.fit, teacher: %s}"
    assert said(planned(hint % "teacher.output", replaced=ADAPTED)) == ([], [])
    problems, _ = said(planned(hint % "student.0", replaced=ADAPTED))
    assert [path for path, _ in problems] == ["stages.distill.losses.hint.student"]
    borrowed = {"stages:": "adapters:\n  fit: {module: student.2, inputs: teacher.output}\nstages:"}
    problems, _ = said(planned(hint % "teacher.output", replaced=borrowed))
    assert [path for path, _ in problems] == ["adapters.fit.module"]


def test_a_width_that_no_memory_holds_is_refused(planned: Planned) -> None:
    """Not tried: a machine with too little memory would end the check, or something else."""
    adapters = "adapters={wide: {module: projector, inputs: student.output, out_features: 1000000000}}"
    plan = planned(adapters, "stages.distill.losses={far: {loss: mse, student: adapters.wide, teacher: adapters.wide}}")
    ((path, message),), _ = said(plan)
    assert path == "stages.distill.losses.far"
    assert "2,000,000,000 numbers are too many" in message


def test_a_run_value_has_a_stand_in(planned: Planned) -> None:
    linear = "!call:torch.optim.lr_scheduler.LinearLR {total_iters: !run steps}"
    plan = planned(f"stages.distill.scheduler={{call: {linear}, interval: step}}")
    assert said(plan) == ([], [])


def test_views_are_part_of_what_the_models_are_shown(planned: Planned) -> None:
    problems, _ = said(planned("stages.distill.views=rotations"))
    assert [path for path, _ in problems] == ["stages.distill.views"]
