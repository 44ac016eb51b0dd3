"""The planner: what a config comes to, and that it meets all mistakes in one pass and builds nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from kd_core.config import Policy, loads
from kd_core.config.runtime import RuntimeSpec
from kd_core.errors import ConfigError
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner, plan
from kd_core.taps.wires import Tap, Wire

Planned = Callable[..., Plan]
Planners = Callable[..., Planner]


def said(planner: Planner) -> list[tuple[str, str]]:
    """The paths and messages of a planner's problems."""
    planner.plan()
    return [(problem.path, problem.message) for problem in planner.problems]


def wires(plan: Plan, term: str, stage: int = 0) -> dict[str, Any]:
    """A term's wires as text."""
    found: Mapping[str, Any] = plan.stages[stage].terms[term].wires
    return {
        key: [str(wire) for wire in wired] if isinstance(wired, list) else str(wired) for key, wired in found.items()
    }


def test_terms_are_bound_to_the_models_and_the_batch_by_their_names(planned: Planned) -> None:
    made = planned()
    assert wires(made, "ce") == {"student": "student.output", "target": "batch.target"}
    assert wires(made, "kd") == {"student": "student.output", "teacher": "teacher.output"}
    assert made.stages[0].terms["kd"].values == {"temperature": 4.0}
    assert made.stages[0].terms["kd"].weight == 1.0


def test_losses_take_the_field_of_the_output_that_the_task_names(
    planned: Planned, points: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "output", "logits")
    made = planned("stages.distill.losses.kd.student=student.2")
    assert wires(made, "ce")["student"] == "student.output/logits"
    assert wires(made, "kd") == {"student": "student.2", "teacher": "teacher.output/logits"}


def test_a_landmark_names_what_the_task_scores(planned: Planned, points: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = wires(planned("stages.distill.losses.kd.student=[student.@logits, teacher.@logits]"), "kd")
    assert plain["student"] == ["student.output", "teacher.output"]
    monkeypatch.setattr(points, "output", "logits")
    field = wires(planned("stages.distill.losses.kd.student=student.@logits"), "kd")
    assert field["student"] == "student.output/logits"


def test_nothing_is_built(planned: Planned) -> None:
    wide = "!call:torch.nn.Linear [1000000000, 1000000000]"
    state = torch.get_rng_state()
    made = planned(f"models.teacher={wide}")
    assert made.models["teacher"].source == "call"
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stage_takes_what_it_leaves_out_from_the_one_before(planned: Planned) -> None:
    made = planned(
        "stages.tune={steps: 3, losses: {ce: {loss: cross_entropy, weight: 0.5}}}", "stages.last={epochs: 1}"
    )
    first, second, third = made.stages
    assert [stage.name for stage in made.stages] == ["distill", "tune", "last"]
    assert [stage.index for stage in made.stages] == [0, 1, 2]
    assert (second.spec.batch_size, second.spec.epochs, second.spec.steps) == (8, None, 3)
    assert (third.spec.batch_size, third.spec.epochs, third.spec.steps) == (8, 1, None)
    assert second.spec.optimizer is first.spec.optimizer
    assert set(first.terms) == {"ce", "kd"}
    assert set(second.terms) == {"ce"}
    assert third.terms is second.terms
    assert second.data is first.data
    assert third.path("epochs") == ("stages", "last", "epochs")
    assert third.path("losses") == ("stages", "tune", "losses")
    assert third.path("optimizer") == ("stages", "distill", "optimizer")
    assert third.path("scheduler") == ("stages", "last")


def test_a_stage_may_have_data_of_its_own(planned: Planned) -> None:
    made = planned("stages.tune={epochs: 1, data: {samples: 5}}", "stages.last={epochs: 1}")
    assert [stage.data.samples for stage in made.stages] == [20, 5, 5]


def test_a_stage_that_is_null_is_left_out(planned: Planned) -> None:
    made = planned("stages.before=null", "stages.tune={epochs: 1}")
    assert [(stage.index, stage.name) for stage in made.stages] == [(0, "distill"), (1, "tune")]


ADAPTED = {
    "stages:": """adapters:
  last: {module: projector, inputs: adapters.first, out_features: 5}
  first: {module: projector, inputs: student.0, out_features: 6}
  unused: {module: projector, inputs: teacher.output, out_features: 7}
  wide: {module: projector, inputs: teacher.output, match: adapters.last}
stages:"""
}
HINT = "stages.distill.losses.hint={loss: mse, student: adapters.last, teacher: adapters.wide}"


def test_adapters_stand_in_the_order_in_which_they_feed_each_other(planned: Planned) -> None:
    made = planned(HINT, replaced=ADAPTED)
    assert made.stages[0].adapters == ("first", "last", "wide")
    assert set(made.adapters) == {"first", "last", "unused", "wide"}


def test_taps_are_those_of_terms_and_of_the_adapters_they_need(planned: Planned) -> None:
    made = planned(
        HINT, "stages.distill.losses.again={loss: mse, student: student.0, teacher: student.1}", replaced=ADAPTED
    )
    assert made.taps(made.stages[0]) == {
        "student": [Tap(""), Tap("0"), Tap("1")],
        "teacher": [Tap("")],
    }


@pytest.mark.parametrize(
    ("inputs", "wrong"),
    [("adapters.last", ["last", "first"]), ("adapters.first", ["first"])],
)
def test_adapters_in_a_circle_are_reported(planner: Planners, inputs: str, wrong: list[str]) -> None:
    replaced = {"stages:": ADAPTED["stages:"].replace("inputs: student.0", f"inputs: {inputs}")}
    found = said(planner(replaced=replaced))
    assert [path for path, _ in found] == [f"adapters.{name}.inputs" for name in wrong]
    assert all("cycle" in message for _, message in found)


def test_lists_of_wires_and_detached_inputs(planned: Planned) -> None:
    made = planned(
        "stages.distill.losses.ce={loss: cross_entropy, student: student.2:in, detach: student, weight: 0.5}",
    )
    term = made.stages[0].terms["ce"]
    assert next(term.all_wires()) == Wire("student", "2", Tap("2", "in"))
    assert term.detach == {"student"}
    assert term.weight == 0.5


def test_schedules_are_told_from_values(planned: Planned) -> None:
    linear = "{schedule: linear, start: 1.0, end: 0.5}"
    made = planned(f"stages.distill.losses.kd={{loss: kd, temperature: {linear}, weight: {linear}}}")
    term = made.stages[0].terms["kd"]
    assert term.values == {}
    halfway = {"step": 2, "total_steps": 5, "steps_per_epoch": 5}
    assert callable(term.weight)
    assert term.weight(**halfway) == term.schedules["temperature"](**halfway)
    assert 0.5 < term.weight(**halfway) < 1


def test_a_plan_has_the_name_of_its_file_unless_it_has_one(planned: Planned) -> None:
    assert (planned().name, planned().dataset) == ("points", None)
    made = planned("name=mine", "data.name=cloud")
    assert (made.name, made.dataset) == ("mine", "cloud")


def test_a_model_that_begins_as_another_is_what_that_is(planned: Planned) -> None:
    made = planned(
        "models.second={init_from: teacher, trainable: true, input: {scale: 2.0}}",
        "models.teacher.cache=true",
        replaced={"teacher: !call:torch.nn.Linear [3, 2]": "teacher: {call: !call:torch.nn.Linear [3, 2]}"},
    )
    second = made.models["second"]
    assert second.init_from is None
    assert second.call == made.models["teacher"].call
    assert second.call is not made.models["teacher"].call  # a module of its own
    assert (second.trainable, second.cache) == (True, False)
    assert {name: wants.scale for name, wants in made.inputs.items()} == {"student": 1, "teacher": 1, "second": 2}


def test_fast_is_decided_when_the_data_are_known(planned: Planned) -> None:
    made = planned("runtime=fast")
    assert made.fast
    assert made.runtime == RuntimeSpec()
    given = planned("runtime={precision: bf16, compile: [teacher]}")
    assert not given.fast
    assert (given.runtime.precision, given.runtime.compile) == ("bf16", ["teacher"])


def test_run_values_are_those_of_the_task(planner: Planners) -> None:
    weights = "stages.distill.losses.ifvd={loss: ifvd, num_classes: !run %s }"
    assert said(planner(weights % "num_classes")) == []
    ((path, message),) = said(planner(weights % "num_samples"))
    assert path == "stages.distill.losses.ifvd.num_classes"
    assert "'num_samples'" in message


WRONG = [
    "data.smaples=3",
    "models.student.call=!call:torch.nn.Sequentiall []",
    "models.teacher.input={scael: 1.0}",
    "stages.distill.epochs=0",
    "stages.distill.losses.kd.temprature=1.0",
    "stages.distill.optimizer=!call:torch.optim.SGD {lrr: 0.1}",
    "runtime={compile: [nobody]}",
    "observers={nothing: {}}",
]


def test_all_mistakes_are_met_in_one_pass_each_at_its_place(planner: Planners) -> None:
    calls = {
        "student: !call:torch.nn.Sequential": "student:\n   call: !call:torch.nn.Sequential",
        "teacher: !call:torch.nn.Linear [3, 2]": "teacher: {call: !call:torch.nn.Linear [3, 2]}",
    }
    made = planner(*WRONG, replaced=calls)
    paths = {path for path, _ in said(made)}
    assert paths >= {
        "data.smaples",
        "models.student.call",
        "models.teacher.input.scael",
        "stages.distill.epochs",
        "stages.distill.losses.kd.temprature",
        "stages.distill.optimizer.lrr",
        "runtime.compile.0",
        "observers.nothing",
    }
    assert len(paths) == len(WRONG)
    assert all(problem.mark is not None for problem in made.problems)


def test_what_is_sound_beside_a_mistake_is_planned(planner: Planners) -> None:
    made = planner("stages.distill.losses.kd.loss=kdd")
    found = made.plan()
    assert found is not None
    assert len(made.problems) == 1
    assert set(found.models) == {"student", "teacher"}
    assert set(found.stages[0].terms) == {"ce"}


@pytest.mark.parametrize(
    ("overrides", "path", "part"),
    [
        (["models.student={hub: some/model}"], "models.student.hub", "no hub"),
        (["models.student={init_from: nobody}"], "models.student.init_from", "no model 'nobody'"),
        (["models.student={init_from: student}"], "models.student.init_from", "no model 'student'"),
        (["models.teacher={run: r, cache: true, trainable: true}"], "models.teacher.cache", "changes in training"),
        (["stages.a b={epochs: 1}"], "stages.a b", "cannot name a stage"),
        (["stages.distill.accumulation_steps=9"], "stages.distill.accumulation_steps", "into 9 micro-batches"),
        (["stages.distill.steps=1"], "stages.distill.steps", "not both"),
        (["stages.distill.losses={}"], "stages.distill.losses", "at least one term"),
        (["stages.distill.losses.kd.detach=nothing"], "stages.distill.losses.kd.detach", "no input 'nothing'"),
        (["stages.distill.views=nothing"], "stages.distill.views", "no view 'nothing'"),
        (["task=pionts"], "task", "no task 'pionts'"),
    ],
)
def test_one_mistake_is_one_problem(planner: Planners, overrides: list[str], path: str, part: str) -> None:
    ((where, message),) = said(planner(*overrides))
    assert where == path
    assert part in message


def test_a_plan_with_problems_is_an_error_with_all_of_them(points: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(loads("task: points\ndata: {samples: x}\nmodels: {}\n"), Policy())
    assert [problem.path for problem in caught.value.problems] == ["data.samples", "models"]
    with pytest.raises(ConfigError, match="data"):
        plan(loads("task: points\n"), Policy())


def test_strong_augmentation_is_refused_where_a_task_has_none(planner: Callable[..., Planner]) -> None:
    made = planner("stages.distill.partners=strong")
    made.plan()
    (problem,) = made.problems
    assert (problem.path, problem.message) == ("stages.distill.partners", "points has no strong augmentation")
