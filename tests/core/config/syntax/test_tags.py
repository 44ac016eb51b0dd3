"""Tags in both spellings, scalars, aliases, and the way back to text."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kd_core.config import (
    RUN_NAMES,
    Builder,
    Call,
    CallMethod,
    Get,
    GetAttr,
    Item,
    Policy,
    RunValue,
    SetAttr,
    Text,
    dump,
    load,
    loads,
)
from kd_core.config.syntax.compose import MAX_DEPTH, MAX_VALUES
from kd_core.config.syntax.read import MAX_BYTES
from kd_core.errors import Mark


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("true", True), ("false", False), ("null", None), ("~", None), ("", None)],
        *[("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("N", "N"), ("tRue", "tRue")],
        *[("0", 0), ("12", 12), ("-3", -3), ("+3", 3), ("1_000", 1000), ("-0", 0)],
        *[
            ("1e-3", 1e-3),
            ("1E5", 1e5),
            ("1.0e-4", 1e-4),
            (".5", 0.5),
            ("1.", 1.0),
            ("-1.5", -1.5),
            ("1_000.5", 1000.5),
        ],
        *[(".inf", math.inf), ("-.inf", -math.inf), ("0.0", 0.0), ("00.5", 0.5)],
        *[("3:0", "3:0"), ("1:30:00", "1:30:00"), ("0x1F", "0x1F"), ("0o17", "0o17"), ("0b11", "0b11")],
        *[("1_", "1_"), ("1__0", "1__0"), ("_1", "_1"), ("1e", "1e"), ("e3", "e3"), (".", "."), ("+", "+")],
        *[("2020-01-01", "2020-01-01"), ("1.2.3", "1.2.3"), ("inf", "inf"), ("nan", "nan"), ("=", "="), ("<<", "<<")],
        *[("'1'", "1"), ('"true"', "true"), ("''", ""), ("! 1", "1"), ("!!str 1", "1"), ("!!int '3'", 3)],
        *[
            ("!!float 1", 1.0),
            ("!!null ''", None),
            ("!!seq [1]", [1]),
            ("!!map {a: 1}", {"a": 1}),
            ("| \n  x\n", "x\n"),
        ],
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = loads(f"a: {text}").data["a"]
    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(loads("a: .nan").data["a"])


SPELLINGS = {
    "!call:torch.nn.ReLU {inplace: true}": "!import_call {key: torch.nn.ReLU, init: {kwargs: {inplace: true}}}",
    "!call:torch.nn.ReLU": "!import_call {key: ReLU, package: torch.nn}",
    "!call:torch.nn.ReLU {}": "!import_call {key: torch.nn.ReLU, init: {args: [], kwargs: null}}",
    "!call:torch.nn.Linear [3, 4]": "!import_call {key: torch.nn.Linear, init: {args: [3, 4]}}",
    "!get:torch.float32": "!import_get {key: float32, package: torch}",
    "!get:torch.nn.functional.relu": "!import_get {key: torch.nn.functional.relu}",
    "!call:a.B.make [1]": "!import_call_method {package: a, class_name: B, method_name: make, init: {args: [1]}}",
    "!call:a.make {x: 1}": "!import_call_method {package: a, method_name: make, init: {kwargs: {x: 1}}}",
    "!getattr:fc [x]": "!getattr [x, fc]",
    "!getattr:fc [x, null]": "!getattr [x, fc, null]",
    "!setattr:fc [x, {y: 1}]": "!setattr [x, fc, {y: 1}]",
    "!item [[1, 2], -1]": "!access_by_index_or_key {data: [1, 2], index_or_key: -1}",
    "!call_method:eval {obj: x}": "!call_method {obj: x, method_name: eval}",
    "!call_method:to {obj: x, args: [cpu], kwargs: {a: 1}, returns_obj: true}": (
        "!call_method {obj: x, method_name: to, args: [cpu], kwargs: {a: 1}, returns_obj: true}"
    ),
}


@pytest.mark.parametrize("short", SPELLINGS)
def test_both_spellings_are_one(short: str) -> None:
    document = loads(f"a: {short}\nb: {SPELLINGS[short]}\n")
    assert document.data["a"] == document.data["b"]
    written = dump(document.data)
    assert "!import" not in written
    assert loads(written).data == document.data


def test_values() -> None:
    data = loads("a: !call:x.Y {b: !run steps}\nc: !import_call {key: x.Y, init: {args: [1], kwargs: {b: 2}}}").data
    assert data["a"] == Call("x.Y", kwargs={"b": RunValue("steps")})
    assert data["c"] == Call("x.Y", [1], {"b": 2})
    assert data["a"].mark == Mark("<string>", 1, 4)
    assert data["a"].places["b"] == Mark("<string>", 1, 15)


def test_texts_are_joined(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    data = loads(
        "root: &root !pathjoin ['~', data]\n"
        "name: !join [epoch, 3, _, 0.5]\n"
        "file: !pathjoin [*root, !join [cifar, 10], x]\n"
        "home: !expanduser ~/x\n"
        "abs: !abspath a/../b\n"
        "none: !join []\n"
    ).data
    assert data == {
        "root": "/home/me/data",
        "name": "epoch3_0.5",
        "file": "/home/me/data/cifar10/x",
        "home": "/home/me/x",
        "abs": str(tmp_path / "b"),
        "none": "",
    }


def test_texts_with_lazy_parts_stay_lazy() -> None:
    assert loads("a: !join [classes, !run num_classes]").data["a"] == Text("join", ["classes", RunValue("num_classes")])


def test_an_alias_of_a_call_is_one_object() -> None:
    document = loads("a: &m !call:torch.nn.ReLU {}\nb: [*m]\nc: {<<: {d: *m}}\ne: &l {x: *m}\nf: *l\n")
    data = document.data
    assert data["a"] is data["b"][0] is data["c"]["d"] is data["e"]["x"] is data["f"]["x"]
    again = loads(dump(data)).data
    assert again == data
    assert again["a"] is again["b"][0] is again["c"]["d"] is again["e"]["x"] is again["f"]["x"]
    assert str(document.mark(["b", 0])) == "<string>:2:5"


def test_equal_calls_are_not_one_object() -> None:
    data = loads(dump(loads("a: !call:x.Y {}\nb: !call:x.Y {}\n").data)).data
    assert data["a"] == data["b"]
    assert data["a"] is not data["b"]


def test_merge_keys() -> None:
    document = loads(
        "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\nd: !call:k.K {<<: *b}\n'<<': 1\n"
    )
    assert document.data["c"] == {"x": 9, "y": 2, "z": 4}
    assert document.data["d"] == Call("k.K", kwargs={"y": 3, "z": 4})
    assert str(document.mark(["c", "z"])) == "<string>:2:17"
    assert document.data["<<"] == 1
    assert loads(dump(document.data)).data == document.data


def test_marks() -> None:
    document = loads(
        "stages:\n"
        "  - losses: {kd: {weight: 0.5}}\n"
        "    optimizer: !call:torch.optim.SGD {lr: 0.1, groups: [{lr: 1}]}\n"
        "    model: !import_call {key: X, init: {args: [7], kwargs: {a: b}}}\n"
        "    method: !call_method {obj: !call:Y {c: 1}, method_name: m, kwargs: {d: 1}}\n"
    )
    for path, value, key in [
        (("stages",), "2:3", "1:1"),
        (("stages", 0), "2:5", "2:5"),
        (("stages", 0, "losses", "kd", "weight"), "2:27", "2:19"),
        (("stages", 0, "optimizer", "lr"), "3:43", "3:39"),
        (("stages", 0, "optimizer", "groups", 0, "lr"), "3:62", "3:58"),
        (("stages", 0, "model", 0), "4:48", "4:48"),
        (("stages", 0, "model", "a"), "4:64", "4:61"),
        (("stages", 0, "method", "obj", "c"), "5:44", "5:41"),
        (("stages", 0, "method", "kwargs", "d"), "5:76", "5:73"),
        ((), "1:1", "1:1"),
        (("stages", 0, "losses", "nowhere", "x"), "2:13", "2:13"),
        (("stages", 7), "2:3", "2:3"),
    ]:
        assert str(document.mark(path)) == f"<string>:{value}", path
        assert str(document.key_mark(path)) == f"<string>:{key}", path
    problem = document.problem(("stages", 0, "losses", "kd", "weight"), "no", "do", key=True)
    assert str(problem) == "<string>:2:19: stages.0.losses.kd.weight: no\n    hint: do"


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r\x85"), max_size=12)
names = st.from_regex(r"[a-z]\w{0,5}(\.[A-Z]\w{0,5}){0,2}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z_]{0,5}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
arguments = st.sampled_from(
    ["true", "no", "1e3", "012", "0x1", "~", "<<", "=", "- a", "a: b", "!x", "&a", "*a", "None", "3:0"]
)


def lazies(inner: st.SearchStrategy) -> st.SearchStrategy:
    args, kwargs = st.lists(inner, max_size=2), st.dictionaries(texts, inner, max_size=2)
    return (
        st.builds(Call, names, args, kwargs)
        | st.builds(CallMethod, inner, words, args, kwargs, st.booleans())
        | st.builds(GetAttr, inner, words, st.just(...) | inner)
        | st.builds(SetAttr, inner, words, inner)
        | st.builds(Item, inner, inner)
        | st.builds(Text, st.sampled_from(["join", "pathjoin"]), st.just(["x", RunValue("steps")]))
    )


values = st.recursive(
    scalars | arguments | st.builds(Get, names) | st.builds(RunValue, st.sampled_from(RUN_NAMES)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts | arguments, inner, max_size=3) | lazies(inner),
    max_leaves=12,
)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.dictionaries(texts, values, min_size=1, max_size=4))
@example({"a": Call("x.Y", [], {"k" * 200: "\n"}), "": {"\u2028": "\x85 ", "#": " #"}})
def test_dump_reads_back(data: dict) -> None:
    if "extends" not in data:
        assert loads(dump(data)).data == data


def test_dump_is_readable() -> None:
    text = """\
data: {name: digits, limit: 100}
models:
  teacher: &id1 !call:torch.nn.Linear [64, 10]
  twin: *id1
stages:
- name: distill
  steps: !run steps
  optimizer: !call:torch.optim.SGD {lr: 0.1, nesterov: true}
  dtype: !get:torch.float32
  weights: null
  quoted: ['no', '1', 'null', 1.0, 1.0e-05, '3:0']
"""
    assert dump(loads(text).data) == text.replace("1.0e-05", "1e-05")


def test_dump_refuses_objects() -> None:
    with pytest.raises(TypeError, match="a config cannot hold object"):
        dump({"a": object()})


def test_the_documentation_holds(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "docs" / "config.md").read_text()
    block, *files = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert Builder(Policy()).check(loads(block).data["models"]) == []
    for file in files:
        (tmp_path / file.splitlines()[0].removeprefix("# ")).write_text(file)
    merged = load(tmp_path / "ours.yaml").data["stages"]
    assert list(merged) == ["hint", "warmup", "distill", "finetune"]
    assert merged["distill"]["losses"]["kd"] == {"loss": "kd", "temperature": 2.0}
    for name in ("call", "import_call", "import_call_method", "get", "import_get", "call_method", "getattr", "setattr"):
        assert f"`!{name}" in text
    limits = f"at most {MAX_BYTES // 1024} KiB, at most {MAX_DEPTH} levels deep, and holds at most {MAX_VALUES} values"
    assert limits in " ".join(text.split())
