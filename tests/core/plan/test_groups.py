"""Groups of models: copies and lists, the wires that name all of them, and what cannot be a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kd_core.check.verifier import verify
from kd_core.config import Builder, Policy
from kd_core.plan.groups import group_of
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.taps.wires import Wire

Planned = Callable[..., Plan]
Planners = Callable[..., Planner]
PEERS = "models.peers={init_from: student, copies: 3, trainable: true}"
TEACHERS = "models.teacher=[!call:torch.nn.Linear [3, 2], {call: !call:torch.nn.Linear [3, 2]}]"
ALL = "stages.distill.losses.all"


def said(planner: Planner) -> list[tuple[str, str]]:
    planner.plan()
    return [(problem.path, problem.message) for problem in planner.problems]


def text(wired: Any) -> Any:
    return str(wired) if isinstance(wired, Wire) else [str(wire) for wire in wired]


def test_copies_are_models_of_their_own(planned: Planned) -> None:
    made = planned(PEERS)
    assert list(made.models) == ["student", "teacher", "peers_1", "peers_2", "peers_3"]
    assert made.models["peers_2"].source == "call"
    assert made.models["peers_2"].trainable
    assert set(made.inputs) == set(made.models)


def test_a_wire_of_a_group_is_the_list_of_its_models_wires(planned: Planned) -> None:
    term = f"{ALL}={{loss: hidden_mse, student: peers.0, teacher: [teacher.output, peers.output]}}"
    wires = planned(PEERS, term).stages[0].terms["all"].wires
    assert text(wires["student"]) == ["peers_1.0", "peers_2.0", "peers_3.0"]
    assert text(wires["teacher"]) == ["teacher.output", "peers_1.output", "peers_2.output", "peers_3.output"]


def test_one_of_a_group_is_named_by_its_number(planned: Planned) -> None:
    wires = planned(PEERS, f"{ALL}={{loss: mse, teacher: peers_2.output}}").stages[0].terms["all"].wires
    assert text(wires["teacher"]) == "peers_2.output"


def test_a_list_of_models_is_a_group(planned: Planned) -> None:
    made = planned(TEACHERS)
    assert list(made.models) == ["student", "teacher_1", "teacher_2"]
    assert text(made.stages[0].terms["kd"].wires["teacher"]) == ["teacher_1.output", "teacher_2.output"]


def test_an_adapter_takes_a_group_as_one_list(planned: Planned) -> None:
    adapter = "adapters.mean={module: !call:torch.nn.Identity {}, inputs: [student.output, peers.output]}"
    one, several = planned(PEERS, adapter).adapters["mean"].inputs
    assert text(one) == "student.output"
    assert text(several) == ["peers_1.output", "peers_2.output", "peers_3.output"]


def test_a_group_is_compiled_whole(planned: Planned) -> None:
    assert planned(PEERS, "runtime.compile=[peers]").runtime.compile == ["peers_1", "peers_2", "peers_3"]


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("models.peers={init_from: student, copies: 0}", "models.peers.copies", "at least 1"),
        ("models.peers={init_from: student, copies: true}", "models.peers.copies", "an integer"),
        ("models.peers={init_from: nobody, copies: 3}", "models.peers.init_from", "there is no model 'nobody'"),
        ("models.peers={arch: nobody, copies: 3, trainable: true}", "models.peers.arch", "no model 'nobody'"),
        ("models.peers=[]", "models.peers", "needs at least one model"),
        ("models.peers=[{init_from: student, copies: 2}]", "models.peers.0.copies", "makes a group"),
        ("models.peers={run: folder, copies: 2}", "models.peers.copies", "all the same"),
        ("models.peers=[{init_from: student, trainable: 3}]", "models.peers.0.trainable", "true or false"),
        ("models.student={call: !call:torch.nn.Linear [3, 2], copies: 2}", "models.student.copies", "one model"),
    ],
)
def test_what_is_no_group_is_said_once_at_its_place(planner: Planners, override: str, path: str, message: str) -> None:
    found = [text for where, text in said(planner(override)) if where == path]
    assert len(found) == 1
    assert message in found[0]


def test_the_names_of_a_group_are_not_another_model(planner: Planners) -> None:
    other = "models.peers_2={init_from: student, trainable: true}"
    assert said(planner(PEERS, other)) == [("models.peers", "has a model 'peers_2', and there is another of that name")]


def test_where_one_tensor_is_needed_a_group_is_refused(planner: Planners) -> None:
    adapter = "adapters.a={module: projector, inputs: student.output, match: peers.output}"
    assert said(planner(PEERS, adapter)) == [
        ("adapters.a.match", "'peers.output' is a list of 3 wires, and one is needed here")
    ]


def test_a_single_model_is_no_group() -> None:
    for value in ({"arch": "cnn"}, {"arch": "cnn", "copies": "3"}, None, "cnn"):
        assert group_of("peers", value) == ()
    assert group_of("peers", {"copies": 1}) == ("peers_1",)


def built(plan: Plan) -> dict[str, Any]:
    builder = Builder(Policy())
    return {name: builder.build(spec.call) for name, spec in plan.models.items()}


def test_copies_of_a_call_share_no_module(planned: Planned) -> None:
    models = built(planned(PEERS, "models.more={call: !call:torch.nn.Linear [3, 2], copies: 2, trainable: true}"))
    parts = [id(part) for name, model in models.items() for part in model.modules()]
    assert len(parts) == len(set(parts))


def test_copies_share_what_an_alias_says_is_another_model(planned: Planned) -> None:
    student = {
        "  student: !call:torch.nn.Sequential\n": "  teacher: &teacher !call:torch.nn.Linear [3, 2]\n"
        "  student: !call:torch.nn.Sequential\n    - *teacher\n",
        "    - !call:torch.nn.Linear [3, 4]\n": "    - !call:torch.nn.Linear [2, 4]\n",
        "  teacher: !call:torch.nn.Linear [3, 2]\nstages": "stages",
    }
    models = built(planned(PEERS, replaced=student))
    for name in ("peers_1", "peers_2"):
        assert models[name][0] is models["teacher"]
        assert models[name][1] is not models["student"][1]


def test_with_each_an_adapter_may_share_and_match_a_groups_modules(planned: Planned) -> None:
    adapter = "adapters.a={module: peers.2, inputs: peers.1, each: true}"
    made = planned(PEERS, adapter).adapters["a"]
    assert [str(wire) for wire in made.shared] == ["peers_1.2", "peers_2.2", "peers_3.2"]
    matched = planned(PEERS, "adapters.a={module: projector, inputs: peers.1, match: peers.output, each: true}")
    assert [str(wire) for wire in matched.adapters["a"].matches] == [f"peers_{n}.output" for n in (1, 2, 3)]


def test_a_module_of_one_model_may_stand_for_each_item(planned: Planned, planner: Planners) -> None:
    made = planned(PEERS, "adapters.a={module: student.2, inputs: peers.1, each: true}").adapters["a"]
    assert [str(wire) for wire in made.shared] == ["student.2"]
    found = said(planner(PEERS, "adapters.a={module: !call:torch.nn.Identity {}, inputs: peers.1, each: true}"))
    assert [path for path, _ in found] == ["adapters.a.each"]
    found = said(planner(PEERS, "adapters.a={module: peers.2, inputs: student.1}"))
    assert found == [("adapters.a.module", "'peers.2' is a list of 3 wires, and one is needed here")]


def test_errors_in_the_models_of_a_group_have_their_place(planned: Planned) -> None:
    wide = "[!call:torch.nn.Linear [3, 2], !call:torch.nn.Linear [5, 2]]"
    plan = planned(replaced={"  teacher: !call:torch.nn.Linear [3, 2]": f"  teacher:\n    {wide}"})
    (problem,) = verify(plan, Policy())[0]
    assert problem.path == "models.teacher_2"
    assert problem.mark is not None
    assert (problem.mark.line, problem.mark.column) == (10, 36)
