"""Signatures, and building."""

from __future__ import annotations

import pytest
import torch

from kd_core.config import ArgumentFault, Builder, Call, Policy, check_arguments, loads
from kd_core.errors import ConfigError, KDError


def built(text: str, **kwargs) -> object:
    return Builder(Policy(), **kwargs).build(loads(f"a: {text}").data["a"], path="a")


def faults(text: str, obj: object, *supplied: str) -> list[tuple]:
    return [tuple(fault) for fault in check_arguments(loads(f"a: !call:f.F {text}").data["a"], obj, supplied)]


def test_the_example_of_the_design() -> None:
    document = loads("stages:\n- {optimizer: !call:torch.optim.SGD {lr: 0.1, momentun: 0.9}}\n", "configs/x.yaml")
    value = document.data["stages"][0]["optimizer"]
    problems = Builder(Policy()).check(value, ["params"], "stages.0.optimizer")
    assert "\n".join(map(str, problems)) == (
        "configs/x.yaml:2:47: stages.0.optimizer.momentun: torch.optim.SGD has no parameter 'momentun'\n"
        "    hint: did you mean 'momentum'?"
    )


def example(first, second=2, /, third=3, *, fourth, fifth=5):
    return first, second, third, fourth, fifth


@pytest.mark.parametrize(
    ("arguments", "supplied", "expected"),
    [
        ("{fourth: 4}", ["first"], []),
        ("[1]", ["fourth"], []),
        ("[1]", [], [((), "f.F is missing the required parameter 'fourth'", None)]),
        ("{third: 3}", [], [((), "f.F is missing the required parameters 'first', 'fourth'", None)]),
        ("[1, 2, 3, 4]", ["fourth"], [((3,), "f.F takes at most 3 positional arguments, not 4", None)]),
        ("[1, 2, 3]", ["first", "fourth"], [((2,), "f.F takes at most 2 positional arguments, not 3", None)]),
        ("{fourth: 4, fith: 1}", ["first"], [(("fith",), "f.F has no parameter 'fith'", "did you mean 'fifth'?")]),
        ("{fourth: 4, second: 1}", ["first"], [(("second",), "f.F takes 'second' only by position", None)]),
        ("{fourth: 4}", ["first", "fourth"], [(("fourth",), "'fourth' is supplied to f.F already", "remove it")]),
        (
            "{fourth: 4, zzz: 1}",
            ["first"],
            [(("zzz",), "f.F has no parameter 'zzz'", "choose one of: fifth, fourth, third")],
        ),
    ],
)
def test_bind(arguments: str, supplied: list[str], expected: list[tuple]) -> None:
    assert faults(arguments, example, *supplied) == expected


def test_bind_twice_given() -> None:
    call = Call("f.F", [1, 2, 3], {"third": 3, "fourth": 4})
    assert check_arguments(call, example) == [
        ArgumentFault(("third",), "f.F gets 'third' twice", "it is also given by position")
    ]


def test_bind_takes_what_the_callable_takes() -> None:
    def anything(*args, **kwargs): ...

    assert faults("{a: 1, b: 2}", anything, "x") == []
    assert faults("[1, 2, 3]", anything) == []
    assert faults("{nonsense: 1}", torch.tensor) == []  # a built-in without a signature
    assert faults("{in_features: 1}", torch.nn.Linear) == [
        ((), "f.F is missing the required parameter 'out_features'", None)
    ]
    assert faults("{in_features: 1, out_features: 2}", torch.nn.Linear) == []
    assert faults("{lr: 1}", torch.optim.SGD, "params") == []
    assert faults("[1, 2]", torch.nn.ReLU) == [((1,), "f.F takes at most 1 positional argument, not 2", None)]
    assert faults("[1]", lambda: 0) == [((0,), "f.F takes no positional arguments, not 1", None)]


def test_all_problems_of_nested_calls() -> None:
    value = loads(
        "a:\n"
        "- !call:torch.nn.Sequential\n"
        "  - !call:torch.nn.Linear {in_feature: 3, out_features: 4}\n"
        "  - &bad !call:torch.nn.Relu {}\n"
        "  - *bad\n"
        "- {b: !get:torch.nn.functional.reluu }\n"
        "- !call:torch.nn.ReLU {inplace: !call:os.getcwd {}}\n"
        "- !call_method:register_forward_hook {obj: !call:torch.nn.ReLU {}, kwargs: {hok: 1}}\n"
    ).data
    assert [str(problem).partition("\n")[0] for problem in Builder(Policy()).check(value)] == [
        "<string>:3:28: a.0.0.in_feature: torch.nn.Linear has no parameter 'in_feature'",
        "<string>:3:5: a.0.0: torch.nn.Linear is missing the required parameter 'in_features'",
        "<string>:4:5: a.0.1: torch.nn has no 'Relu'",
        "<string>:6:7: a.1.b: torch.nn.functional has no 'reluu'",
        "<string>:7:33: a.2.inplace: os.getcwd is blocked: os is unsafe",
        "<string>:8:77: a.3.kwargs.hok: ReLU.register_forward_hook has no parameter 'hok'",
        "<string>:8:3: a.3: ReLU.register_forward_hook is missing the required parameter 'hook'",
    ]


def test_check_builds_nothing(monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.Linear, "__init__", lambda self, in_features: pytest.fail("built"))
    assert Builder(Policy()).check(loads("a: !call:torch.nn.Linear [3]").data) == []


def test_build() -> None:
    lines: list[str] = []
    value = loads(
        "net: !call:torch.nn.Sequential [&l !call:torch.nn.Linear [2, 2], !call:torch.nn.ReLU , *l]\n"
        "again: {layer: *l}\n"
        "weight: !getattr:weight [*l]\n"
        "missing: !getattr:nope [*l, 7]\n"
        "marked: !setattr:note [*l, {x: !run steps }]\n"
        "first: !item [!getattr:weight [*l], 0]\n"
        "frozen: !call_method:requires_grad_ {obj: *l, args: [false], returns_obj: true}\n"
        "dtype: !get:torch.float16\n"
        "name: !join [steps, !run steps ]\n"
        "plain: [1, {a: null}]\n"
    ).data
    found = Builder(Policy(), {"steps": 9}, lines.append).build(value)
    layer = found["net"][0]
    assert isinstance(layer, torch.nn.Linear)
    assert layer is found["net"][2] is found["again"]["layer"] is found["marked"] is found["frozen"]
    assert found["weight"] is layer.weight
    assert not layer.weight.requires_grad
    assert layer.note == {"x": 9}
    assert torch.equal(found["first"], layer.weight[0])
    assert (found["missing"], found["dtype"], found["name"]) == (7, torch.float16, "steps9")
    assert found["plain"] == [1, {"a": None}]
    assert lines == [
        "built net.0: torch.nn.Linear (<string>:1:33)",
        "built net.1: torch.nn.ReLU (<string>:1:66)",
        "built net: torch.nn.Sequential (<string>:1:6)",
        "built frozen: Linear.requires_grad_ (<string>:7:9)",
    ]


def test_an_object_is_built_once_for_all_calls_of_a_builder() -> None:
    data = loads("a: &m !call:torch.nn.Linear [2, 2]\nb: *m\nc: !call:torch.nn.Linear [2, 2]\n").data
    builder = Builder(Policy())
    assert builder.build(data["a"]) is builder.build(data["b"])
    assert builder.build(data["a"]) is not builder.build(data["c"])


def test_supplied() -> None:
    params = [torch.nn.Parameter(torch.zeros(1))]
    value = loads("a: !call:torch.optim.SGD {lr: 0.5}").data["a"]
    builder = Builder(Policy())
    first, second = (builder.build(value, {"params": params}) for _ in range(2))
    assert first.param_groups[0]["params"] == params
    assert first.param_groups[0]["lr"] == 0.5
    assert first is not second
    scheduler = loads("a: !call:torch.optim.lr_scheduler.StepLR [3]").data["a"]
    assert builder.build(scheduler, {"optimizer": first}).step_size == 3


def test_supplied_by_name_where_it_is_not_next_in_line() -> None:
    builder = Builder(Policy(["builtins", "torch"]))
    linear = builder.build(Call("torch.nn.Linear", [3]), {"bias": False, "out_features": 5})
    assert (linear.in_features, linear.out_features, linear.bias) == (3, 5, None)


def test_build_names_what_fails(monkeypatch) -> None:
    with pytest.raises(ConfigError) as caught:
        built("[!call:torch.nn.Linear {in_features: -1, out_features: 3}]")
    assert str(caught.value).startswith("<string>:1:5: a.0: torch.nn.Linear failed: RuntimeError: Trying to create")
    with pytest.raises(ConfigError, match=r"^<string>:1:4: a: item 5 failed: IndexError: list index out of range$"):
        built("!item [[1], 5]")
    with pytest.raises(
        ConfigError, match=r"^<string>:1:4: a: !join failed: TypeError: joins texts and numbers, not \[\]"
    ):
        built("!join [!run targets ]", run_values={"targets": []})
    for error, reason in [(KDError("no such data"), "no such data"), (SystemExit(3), "SystemExit: 3")]:
        monkeypatch.setattr(torch.nn.ReLU, "__init__", _raiser(error))
        with pytest.raises(ConfigError, match=rf"^<string>:1:4: a: torch\.nn\.ReLU failed: {reason}$"):
            built("!call:torch.nn.ReLU {}")


def _raiser(error: BaseException):
    def init(self) -> None:
        raise error

    return init


def test_run_values() -> None:
    assert built("{x: [!run num_classes ]}", run_values={"num_classes": 10}) == {"x": [10]}
    with pytest.raises(
        ConfigError, match=r"a: !run steps is not known here\n    hint: known here: num_classes, targets$"
    ):
        built("!run steps", run_values={"targets": [], "num_classes": 10})
    with pytest.raises(ConfigError, match="known here: nothing"):
        built("!run steps")


def test_nothing_is_built_where_anything_is_wrong(monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.ReLU, "__init__", lambda self: pytest.fail("built"))
    with pytest.raises(ConfigError, match=r"torch\.nn has no 'Nope'"):
        built("[!call:torch.nn.ReLU {}, !call:torch.nn.Nope {}]")
