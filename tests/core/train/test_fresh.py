"""Modules made anew: an adapter with the architecture of a model's module and weights of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from kd_core.check.verifier import verify
from kd_core.config import Policy
from kd_core.device.runtime import Runtime
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.progress import Reporter
from kd_core.train.components import Components, Data
from kd_core.train.stage import Stage

BRANCHES = (
    "adapters.one={module: student.2, inputs: student.1, fresh: true}",
    "adapters.two={module: student.@classifier, inputs: student.1, fresh: true}",
    "adapters.shared={module: student.2, inputs: student.1}",
    "stages.distill.losses.more={loss: cross_entropy, student: [adapters.one, adapters.two, adapters.shared]}",
)


def built(plan: Plan) -> Components:
    reporter = Reporter(silent=True)
    return Components(plan, Policy(), Runtime(plan.runtime), Data(plan, Policy(), reporter), reporter)


def weight(module: nn.Module) -> torch.Tensor:
    (found,) = (parameter for name, parameter in module.named_parameters() if name.endswith("weight"))
    return found


def test_they_are_trained_beside_the_module_and_begin_with_other_weights(planned: Callable[..., Plan]) -> None:
    components = built(planned(*BRANCHES))
    one, two = (components.adapters.get_submodule(name) for name in ("one", "two"))
    last = components.models["student"].get_submodule("2")
    shapes = {weight(module).shape for module in (one, two, last)}
    assert len(shapes) == 1
    assert len({weight(module).sum().item() for module in (one, two, last)}) == 3
    names = set(Stage(components, components.plan.stages[0]).named_parameters)
    assert {"adapters.one.weight", "adapters.two.bias", "student.2.weight"} <= names
    assert not any(name.startswith("adapters.shared") for name in names)


def test_their_weights_are_a_function_of_the_seed(planned: Callable[..., Plan]) -> None:
    first, again, other = (built(planned(*BRANCHES, f"seed={seed}")).adapters for seed in (1, 1, 2))
    assert torch.equal(weight(first.get_submodule("one")), weight(again.get_submodule("one")))
    assert not torch.equal(weight(first.get_submodule("one")), weight(other.get_submodule("one")))


def test_a_check_follows_them(planned: Callable[..., Plan]) -> None:
    assert verify(planned(*BRANCHES), Policy()) == ([], [])
    wrong = planned(*BRANCHES[1:], "adapters.one={module: student.2, inputs: student.output, fresh: true}")
    assert [problem.path for problem in verify(wrong, Policy())[0]] == ["adapters.one.module"]


def test_what_is_no_models_module_is_made_anyway(planner: Callable[..., Planner]) -> None:
    made = planner("adapters.one={module: projector, inputs: student.1, out_features: 2, fresh: true}")
    made.plan()
    assert [problem.path for problem in made.problems] == ["adapters.one.fresh"]
