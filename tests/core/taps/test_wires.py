"""Wires: what each text means, what is said of a wrong one, and the way into nested values."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kd_core.errors import ConfigError
from kd_core.taps.wires import Inputs, Tap, Wire, describe_shapes, parse_wire, pick

MODELS = ["student", "teacher", "teacher_b"]
ADAPTERS = ["proj", "fuse"]


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("student.output", Wire("student", "output", Tap(""))),
        ("student.output/logits", Wire("student", "output", Tap(""), ("logits",))),
        ("student.output/0/-1", Wire("student", "output", Tap(""), (0, -1))),
        ("student.output:out", Wire("student", "output", Tap("output"))),
        ("student.output:in/0", Wire("student", "output", Tap("output", "in"), (0,))),
        ("student.output:1", Wire("student", "output", Tap("output", call=1))),
        ("student.output.dense", Wire("student", "output.dense", Tap("output.dense"))),
        ("teacher_b.layer1.-1.relu", Wire("teacher_b", "layer1.-1.relu", Tap("layer1.-1.relu"))),
        ("student.fc:in", Wire("student", "fc", Tap("fc", "in"))),
        ("student.relu:-1", Wire("student", "relu", Tap("relu", call=-1))),
        ("student.relu:in:0/mask", Wire("student", "relu", Tap("relu", "in", 0), ("mask",))),
        (
            "student.bert.encoder.layer.0.attention.self/1",
            Wire("student", "bert.encoder.layer.0.attention.self", Tap("bert.encoder.layer.0.attention.self"), (1,)),
        ),
        ("adapters.proj", Wire("adapters", "proj")),
        ("adapters.proj/0", Wire("adapters", "proj", None, (0,))),
        ("batch.target", Wire("batch", "target")),
        ("batch.boxes/labels", Wire("batch", "boxes", None, ("labels",))),
    ],
)
def test_meaning(text: str, wire: Wire) -> None:
    assert parse_wire(text, MODELS, ADAPTERS) == wire


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}|-?[0-9]{1,2}", fullmatch=True)


@given(
    st.lists(NAMES, min_size=1, max_size=4),
    st.sampled_from(["in", "out"]),
    st.none() | st.just("all") | st.integers(-3, 3),
    st.lists(NAMES, max_size=3),
)
def test_what_is_written_reads_back(path: list[str], side: str, call: int | str | None, fields: list[str]) -> None:
    tap = Tap(".".join(path), side, call)  # type: ignore[arg-type]
    text = "/".join([f"student.{tap}", *fields])
    wire = parse_wire(text, MODELS)
    assert wire.tap == tap
    assert parse_wire(str(wire), MODELS) == wire


@given(st.text(alphabet="student.ouplyra:[]/-01 ", max_size=20))
def test_any_text_parses_or_is_refused_with_a_hint(text: str) -> None:
    try:
        wire = parse_wire(text, MODELS, ADAPTERS)
    except ConfigError as error:
        assert error.problems[0].hint  # noqa: PT017 (both ways are right)
    else:
        assert parse_wire(str(wire), MODELS, ADAPTERS) == wire


@pytest.mark.parametrize(
    ("text", "flaw", "hint"),
    [
        ("student", "names nothing in 'student'", "write student.output"),
        ("student.", "names nothing in 'student'", "write student.output"),
        ("teacher/logits", "names nothing in 'teacher'", "write teacher.output/logits"),
        ("batch", "names nothing in 'batch'", "write batch.NAME"),
        ("studnt.layer1", "there is no model 'studnt'", "did you mean 'student'?"),
        ("x.layer1", "there is no model 'x'", "choose one of: adapters, batch, student, teacher, teacher_b"),
        ("proj", "there is no model 'proj'", "did you mean 'adapters.proj'?"),
        ("student:layer1", "after 'student' comes a '.'", "write student.layer1"),
        ("student:in", "after 'student' comes a '.'", "write student.output"),
        ("student[0]", "after 'student' comes a '.'", "write student.output"),
        ("student.layer1[0].relu", "has brackets", "write student.layer1.0.relu"),
        ("student..layer1", "an empty part between dots", "write student.layer1"),
        ("student.layer1.", "an empty part between dots", "write student.layer1"),
        ("student.layer1:", "':' is neither a side nor a call", "write :in or :out"),
        ("student.layer1:inputs", "':inputs' is neither a side nor a call", "did you mean :in?"),
        ("student.layer1:ouput", "':ouput' is neither a side nor a call", "did you mean :out?"),
        ("student.layer1:1:in", "the side comes before the call", "write student.layer1:in:1"),
        ("student.layer1:0:1", "':1' is neither a side nor a call", "write :in or :out"),
        ("student.layer1:1.5", "':1.5' is neither", "write :in or :out"),
        ("student.layer1/", "empty field", "write student.layer1/NAME, student.layer1/0 or student.layer1"),
        ("student.layer1//0", "empty field", "write student.layer1/NAME"),
        ("adapters.prj", "there is no adapter 'prj'", "did you mean 'proj'?"),
        ("adapters.proj:in", "':' selects a side or a call of a module", "write adapters.proj"),
        ("batch.x:0/y", "':' selects", "write batch.x/y"),
        ("", "'' is not a wire", "write MODEL.path"),
        ("student. layer1", "is not a wire", "without spaces"),
        (7, "7 is not a wire", "write MODEL.path"),
    ],
)
def test_mistakes(text: str, flaw: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_wire(text, MODELS, ADAPTERS)
    (problem,) = raised.value.problems
    assert flaw in problem.message
    assert hint in str(problem.hint)


@dataclass
class Output:
    logits: torch.Tensor
    states: tuple[torch.Tensor, ...]


Pair = namedtuple("Pair", "first second")
ONE, TWO = torch.ones(1), torch.ones(2)


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ((TWO, ONE), (1,)),
        ([TWO, ONE], (-1,)),
        ({"a": (TWO, ONE)}, ("a", 1)),
        ({3: ONE}, (3,)),
        ({"3": ONE}, (3,)),
        (OrderedDict(a=ONE), ("a",)),
        (Pair(TWO, ONE), ("second",)),
        (Pair(TWO, ONE), (1,)),
        (Output(TWO, (TWO, ONE)), ("states", -1)),
        (ONE, ()),
    ],
)
def test_pick(value: object, fields: tuple[str | int, ...]) -> None:
    assert pick(value, fields) is ONE


@pytest.mark.parametrize(
    ("value", "fields", "flaw", "hint"),
    [
        (Output(TWO, (ONE,)), ("logit",), "'logit': the value is {logits: (2,), states: [(1,)]}", "mean 'logits'?"),
        (Output(TWO, (ONE,)), ("states", 3), "'3': /states is [(1,)]", "choose one of: 0"),
        (Output(TWO, (ONE,)), ("__class__",), "no field '__class__'", "choose one of: logits, states"),
        ({"a": ONE}, (0,), "'0': the value is {a: (1,)}", "choose one of: a"),
        (ONE, (0,), "'0': the value is (1,)", "leave the field out"),
        (ONE, ("shape",), "'shape': the value is (1,)", "leave the field out"),
        (Pair(ONE, TWO), ("count",), "'count'", "choose one of: 0, 1, first, second"),
    ],
)
def test_pick_lists_what_is_there(value: object, fields: tuple[str | int, ...], flaw: str, hint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        pick(value, fields)
    assert flaw in raised.value.problems[0].message
    assert hint in str(raised.value.problems[0].hint)


def test_inputs() -> None:
    several = Inputs((TWO, (TWO, ONE)), {"mask": ONE})
    assert pick(several, ("mask",)) is ONE
    assert pick(several, (1, 1)) is ONE
    single = Inputs(((TWO, ONE),), {"mask": ONE})
    assert pick(single, (1,)) is ONE
    assert pick(single, ("mask",)) is ONE
    assert pick(Inputs((ONE,), {"mask": TWO})) is ONE
    for wrong in ((), (2,), ("msk",)):
        with pytest.raises(ConfigError, match="choose one of: /0, /1, /mask"):
            pick(several, wrong)


def test_describe() -> None:
    value = (ONE, {"a": TWO, "b": None}, Output(TWO, ()), object(), 3)
    assert describe_shapes(value) == "[(1,), {a: (2,), b: None}, {logits: (2,), states: []}, object, 3]"


def test_needs_no_torch() -> None:
    code = "import sys, kd_core.taps.wires; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
