"""Several optimisers in one stage: each steps its groups, and all of them go on from one state."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import MultiStepLR

from kd_core.check.verifier import verify
from kd_core.config import Builder, Policy
from kd_core.device.runtime import Runtime
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.progress import Reporter
from kd_core.train.combined import CombinedOptimizer
from kd_core.train.components import Components, Data
from kd_core.train.optim import build_optimizer
from kd_core.train.stage import Stage

OPTIMIZER = (
    "stages.distill.optimizer={call: !call:torch.optim.SGD {lr: 0.1, momentum: 0.9}, "
    'groups: [{params: "student.2", lr: 0.2}, {params: "student.0", call: !call:torch.optim.Adam {lr: 0.01}}]}'
)


def pair() -> tuple[list[nn.Parameter], CombinedOptimizer]:
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3)) for _ in range(3)]
    return parameters, CombinedOptimizer([SGD(parameters[:2], lr=0.1, momentum=0.9), Adam([parameters[2]], lr=0.01)])


def steps(parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        for parameter in parameters:
            parameter.grad = torch.cos(parameter.detach() * (number + 1))
        optimizer.step()


def test_each_steps_its_own_parameters() -> None:
    parameters, both = pair()
    twins = copy.deepcopy(parameters)
    apart = [SGD(twins[:2], lr=0.1, momentum=0.9), Adam([twins[2]], lr=0.01)]
    for number in range(3):
        steps(parameters, both, 1, number)
        for optimizer, own in zip(apart, (twins[:2], twins[2:]), strict=True):
            steps(own, optimizer, 1, number)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(parameters, twins, strict=True))


def test_all_go_on_from_one_state(tmp_path: Path) -> None:
    parameters, whole = pair()
    schedule = MultiStepLR(whole.parts[0], [1])
    steps(parameters, whole, 2)
    schedule.step()
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    at = copy.deepcopy(parameters)
    again = CombinedOptimizer([SGD(at[:2], lr=0.1, momentum=0.9), Adam([at[2]], lr=0.01)])
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [group["lr"] for part in again.parts for group in part.param_groups] == pytest.approx([0.01, 0.01])
    steps(parameters, whole, 3, 2)
    steps(at, again, 3, 2)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(parameters, at, strict=True))


def test_a_group_of_a_config_has_an_optimiser_of_its_own(planned: Callable[..., Plan]) -> None:
    plan = planned(OPTIMIZER)
    assert verify(plan, Policy()) == ([], [])
    root = nn.Module()
    root.student = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))  # type: ignore[assignment]
    spec = plan.stages[0].spec.optimizer
    assert spec is not None
    optimizer = build_optimizer(spec, root, Builder(Policy(), {}), "optimizer")
    assert isinstance(optimizer, CombinedOptimizer)
    assert [type(part) for part in optimizer.parts] == [SGD, Adam]
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.01]


@pytest.mark.parametrize(
    ("old", "new", "path", "message"),
    [
        ("Adam {lr: 0.01}", "Adam {lr: 0.01}, lr: 1.0", "groups.1.lr", "is an option of the group's own optimizer"),
        ("!call:torch.optim.Adam", "!call:torch.nn.Linear", "groups.1.call", "is not a torch.optim.Optimizer"),
        ("Adam {lr", "Adam {rate", "groups.1.call", "rate"),
    ],
)
def test_what_is_refused(planner: Callable[..., Planner], old: str, new: str, path: str, message: str) -> None:
    made = planner(OPTIMIZER.replace(old, new))
    made.plan()
    problem = made.problems[0]
    assert problem.path.startswith(f"stages.distill.optimizer.{path}")
    assert message in problem.message


@pytest.mark.parametrize(
    "call",
    [
        "kd_core.train.dot.DOT {lr: 0.01, task: [ce]}",
        "kd_core.train.sam.SAM {lr: 0.01, base_optimizer: !get:torch.optim.SGD }",
    ],
)
def test_what_steps_all_that_learns_is_not_combined(planned: Callable[..., Plan], call: str) -> None:
    plan = planned(OPTIMIZER.replace("torch.optim.Adam {lr: 0.01}", call))
    (problem,) = verify(plan, Policy())[0]
    assert "is not combined with another" in problem.message


def test_a_scheduler_leaves_the_rate_of_a_groups_own_optimiser(planned: Callable[..., Plan]) -> None:
    scheduler = "stages.distill.scheduler=!call:torch.optim.lr_scheduler.StepLR {step_size: 1}"
    plan = planned(OPTIMIZER, scheduler)
    reporter = Reporter(silent=True)
    components = Components(plan, Policy(), Runtime(plan.runtime), Data(plan, Policy(), reporter), reporter)
    stage = Stage(components, plan.stages[0])
    stage.step()
    stage.schedule("epoch")
    assert stage.learning_rates == pytest.approx([0.02, 0.01])


def test_something_is_left_for_the_optimiser_itself(planned: Callable[..., Plan]) -> None:
    own = OPTIMIZER.replace('"student.2", lr: 0.2', '"student.2", call: !call:torch.optim.SGD {lr: 1.0}')
    (problem,) = verify(planned(own), Policy())[0]
    assert "no parameter is left for it" in problem.message
