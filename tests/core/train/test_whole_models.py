"""Adapters that run a whole model: what is at its places, gradients through it, and who else runs it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from kd_core.check.verifier import verify
from kd_core.config import Policy
from kd_core.data.batch import Batch
from kd_core.device.distributed import SINGLE_PROCESS
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.progress import Reporter
from kd_core.taps.wires import Wire
from kd_core.train.components import Components, Data
from kd_core.train.objective import StepInfo
from kd_core.train.stage import Stage
from kd_core.train.values import Adapters, WireResolver

DEEP = "models.teacher={call: !call:torch.nn.Sequential [!call:torch.nn.Linear [3, 5], !call:torch.nn.Linear [5, 2]]}"
MADE = "adapters.made={module: projector, inputs: batch.input, out_features: 3}"
TEACHER = 'adapters.seen={module: teacher, inputs: adapters.made, taps: {logits: "@logits", hidden: "0"}}'
STUDENT = 'adapters.own={module: student, inputs: adapters.made, taps: {logits: "output"}, detach: true}'
ONLY = (
    *(DEEP, MADE, TEACHER, STUDENT, "stages.distill.losses.ce=null"),
    "stages.distill.losses.kd={loss: kd, student: adapters.own/logits, teacher: adapters.seen/logits, detach: teacher}",
)
BOTH = (*ONLY, "stages.distill.losses.size={loss: feature_activation, input: adapters.seen/hidden}")


def staged(plan: Plan) -> Stage:
    reporter = Reporter(silent=True)
    components = Components(plan, Policy(), Runtime(plan.runtime), Data(plan, Policy(), reporter), reporter)
    return Stage(components, components.plan.stages[0])


def backward(stage: Stage) -> None:
    """The gradients of one step."""
    stage.set_modes()
    batch = stage.components.sample(stage.plan, 4)
    loss, _ = stage.step_module(batch, stage.teacher_outputs(batch), StepInfo(0, 10, 5), SINGLE_PROCESS)
    loss.backward()


def counted(model: nn.Module, calls: list[torch.Size]) -> None:
    model.register_forward_pre_hook(lambda module, args: calls.append(args[0].shape))


def test_the_values_are_those_at_the_models_places(planned: Callable[..., Plan]) -> None:
    more = "stages.distill.losses.more={loss: mse, student: adapters.seen/logits, teacher: adapters.seen/logits}"
    stage = staged(planned(DEEP, TEACHER.replace("adapters.made", "batch.input"), more))
    values = stage.components.probe(stage.plan)
    teacher = stage.components.models["teacher"]
    batch = stage.components.sample(stage.plan, 2)
    (wires,) = (term.wires for name, term in stage.plan.terms.items() if name == "more")
    seen = values.get(wires["student"])
    assert torch.equal(seen, teacher(batch.for_model("teacher")))


def test_only_the_adapters_run_the_models(planned: Callable[..., Plan]) -> None:
    plan = planned(*BOTH)
    assert plan.taps(plan.stages[0]) == {"teacher": [], "student": []}
    stage, calls = staged(plan), list[torch.Size]()
    for model in stage.components.models.values():
        counted(model, calls)
    backward(stage)
    assert calls == [torch.Size((4, 3))] * 2


def test_gradients_go_through_the_frozen_teacher_and_not_where_they_are_detached(planned: Callable[..., Plan]) -> None:
    """The student learns from what was made, whose maker learns from the teacher alone."""
    for terms, reaches in ((ONLY, False), (BOTH, True)):
        stage = staged(planned(*terms))
        backward(stage)
        models = stage.components.models
        made = stage.components.adapters.get_submodule("made")
        assert all(parameter.grad is not None for parameter in models["student"].parameters())
        assert all(parameter.grad is None for parameter in models["teacher"].parameters())
        assert any(parameter.grad is not None for parameter in made.parameters()) == reaches


def test_the_student_trains_and_the_teacher_does_not(planned: Callable[..., Plan]) -> None:
    stage = staged(planned(*BOTH))
    stage.set_modes()
    assert stage.trains_student
    assert stage.components.models["student"].training
    assert not stage.components.models["teacher"].training
    assert {name.split(".")[0] for name in stage.named_parameters} == {"student", "adapters"}


def test_no_hook_is_left_when_the_stage_is_over(planned: Callable[..., Plan]) -> None:
    stage = staged(planned(*BOTH))
    backward(stage)
    modules = [module for model in stage.components.models.values() for module in model.modules()]
    assert any(module._forward_hooks for module in modules)
    stage.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def test_nothing_of_a_model_is_kept_that_only_adapters_run(planned: Callable[..., Plan]) -> None:
    with pytest.raises(KDError, match="only adapters run teacher, and nothing"):
        staged(planned(*BOTH, "models.teacher.cache=true"))


def test_a_check_follows_them(planned: Callable[..., Plan]) -> None:
    assert verify(planned(*BOTH), Policy()) == ([], [])
    wrong = planned(DEEP, *ONLY[3:], MADE, TEACHER.replace('"0"', '"9"'))
    (problem,) = verify(wrong, Policy())[0]
    assert (problem.path, "has no module '9'" in problem.message) == ("adapters.seen.taps.hidden", True)


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        (TEACHER.replace("teacher,", "teacher.0,"), "adapters.seen.taps", "only of one whole model"),
        (TEACHER.replace("taps", "fresh: true, taps"), "adapters.seen.taps", "only of one whole model"),
        (TEACHER.replace("hidden:", "a/b:"), "adapters.seen.taps.a/b", "cannot name a tap"),
        (TEACHER.replace("@logits", "@logit"), "adapters.seen.taps.logits", "no landmark @logit"),
        (TEACHER.split("{logits")[0] + "{}}", "adapters.seen.taps", "a mapping of at least 1, not an empty mapping"),
        (TEACHER.replace("teacher,", "teachr,"), "adapters.seen.module", "did you mean 'teacher'?"),
    ],
)
def test_what_is_refused(planner: Callable[..., Planner], override: str, path: str, message: str) -> None:
    made = planner(
        DEEP, MADE, override, "stages.distill.losses.ce={loss: mse, student: adapters.seen, teacher: batch.input}"
    )
    made.plan()
    (problem,) = made.problems
    assert problem.path == path
    assert message in f"{problem.message}, {problem.hint}"


def test_models_that_see_the_same_take_the_same(planner: Callable[..., Planner]) -> None:
    made = planner(*BOTH, "models.teacher.input={scale: 2.0}")
    made.plan()
    (problem,) = made.problems
    assert problem.path == "adapters.own.inputs"
    assert problem.message == "adapters.made is given to teacher and to student, whose inputs differ"
    assert problem.hint is not None
    assert "scale is 2.0 and 1.0" in problem.hint


def test_what_runs_a_model_sees_a_batch_as_that_model_takes_it() -> None:
    given = {"student": torch.zeros(2), "teacher": torch.ones(2)}
    batch = Batch(given, None, torch.arange(2), {"partner": torch.zeros(2), "partners": given})
    values = WireResolver({}, batch, Adapters({}))
    for wire in (Wire("batch", "input"), Wire("batch", "partner")):
        assert values.get(wire).tolist() == values.taken_by(["student"])(wire).tolist() == [0, 0]
        assert values.taken_by(["teacher"])(wire).tolist() == [1, 1]
