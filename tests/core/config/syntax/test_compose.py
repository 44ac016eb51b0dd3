"""``extends:`` and ``--set``."""

from __future__ import annotations

import pytest

from kd_core.config import Call, Get, RunValue, load, loads
from kd_core.errors import ConfigError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(**files: str):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def problems(path: str, *options: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, options)
    return [str(problem) for problem in caught.value.problems]


def test_extends_merges_mappings_and_replaces_the_rest(folder) -> None:
    folder(
        base="data: {name: digits, limit: 5}\nlist: [1, 2]\nopt: !call:a.B {x: 1}\nnone: 1\n",
        mid="extends: base.yaml\ndata: {limit: 7}\nopt: !call:a.C {y: 2}\n",
        sub__top="extends: [../mid.yaml]\nlist: [3]\ndata: {more: 1}\nnone: null\n",
    )
    document = load("sub/top.yaml")
    assert document.data == {
        "data": {"name": "digits", "limit": 7, "more": 1},
        "list": [3],
        "opt": Call("a.C", kwargs={"y": 2}),
        "none": None,
    }
    assert document.file == "sub/top.yaml"
    assert str(document.mark(["data", "name"])) == "base.yaml:1:14"
    assert str(document.mark(["data", "limit"])) == "mid.yaml:2:15"
    assert str(document.key_mark(["opt", "y"])) == "mid.yaml:3:17"
    assert str(document.mark(["data"])) == "sub/top.yaml:3:7"
    assert str(document.mark(["list", 0])) == "sub/top.yaml:2:8"


def test_later_bases_win_and_a_call_stays_one(folder) -> None:
    folder(
        a="m: &m !call:x.Y {}\nuse: [*m]\nv: 1\n",
        b="extends: a.yaml\nv: 2\nw: 2\n",
        c="extends: a.yaml\nv: 3\n",
        top="extends: [b.yaml, c.yaml]\n",
    )
    data = load("top.yaml", ["use.0.k=1"]).data
    assert (data["v"], data["w"]) == (3, 2)
    assert data["m"] is data["use"][0]
    assert data["m"] == Call("x.Y", kwargs={"k": 1})


def test_extends_in_a_nested_mapping_is_a_plain_key() -> None:
    assert loads("a: {extends: x}").data == {"a": {"extends": "x"}}


def test_extends_of_text_is_relative_to_its_file(folder) -> None:
    folder(sub__base="a: 1\n")
    assert loads("extends: base.yaml\nb: 2", "sub/x.yaml").data == {"a": 1, "b": 2}


def test_extends_problems(folder) -> None:
    folder(
        itself="extends: itself.yaml\n",
        one="extends: two.yaml\n",
        two="extends: sub/../one.yaml\n",
        broken="a: True\n",
        empty="",
        top="a: 1\nextends: [broken.yaml, nowhere.yaml, empty.yaml, broken.yaml, ., brken.yaml]\n",
        **{f"chain{n}": f"extends: chain{n + 1}.yaml\n" for n in range(40)},
    )
    assert problems("itself.yaml")[0].startswith("itself.yaml:1:10: extends: extends forms a cycle: ")
    assert problems("one.yaml")[0].startswith("two.yaml:1:10: extends: extends forms a cycle: ")
    assert problems("chain0.yaml") == ["chain32.yaml:1:10: extends: more than 32 files extend each other"]
    assert problems("top.yaml") == [
        "broken.yaml:1:4: True is not a YAML value\n    hint: write true, or 'True' for a string",
        "top.yaml:2:24: extends: nowhere.yaml: no such file\n    hint: did you mean one.yaml?",
        "empty.yaml:1:1: the file is empty",
        (
            "top.yaml:2:63: extends: .: this is a directory, not a config\n"
            "    hint: name a config in it, such as broken.yaml"
        ),
        "top.yaml:2:66: extends: brken.yaml: no such file\n    hint: did you mean broken.yaml?",
    ]


def test_many_diamonds_are_read_once(folder) -> None:
    levels = {f"d{n}": f"extends: [d{n + 1}.yaml, d{n + 1}.yaml]\n" for n in range(25)}
    folder(**levels, d25="a: 1\n")
    assert load("d0.yaml").data == {"a": 1}


CONFIG = """\
stages:
- {epochs: 1, optimizer: &o !call:torch.optim.SGD {lr: 0.5, groups: [1, 2]}}
- {epochs: 2, optimizer: *o, model: !import_call {key: M, init: {args: [3, 4], kwargs: {w: 1}}}}
plain: &p {x: 1, y: {z: 1}}
alias: *p
name: abc
none: null
path: !pathjoin [a, b]
get: !getattr:fc [!call:m.N {w: 1}]
run: !call_method:m {obj: x, kwargs: {a: 1}}
"""


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("stages.0.epochs=5", ("stages", 0, "epochs"), 5),
        ("stages.-1.epochs=5", ("stages", 1, "epochs"), 5),
        ("stages.0.optimizer.lr=1e-3", ("stages", 0, "optimizer", "lr"), 1e-3),
        ("stages.0.optimizer.momentum=0.9", ("stages", 0, "optimizer", "momentum"), 0.9),
        ("stages.0.optimizer.groups.-1=7", ("stages", 0, "optimizer", "groups", 1), 7),
        ("stages.1.model.0=9", ("stages", 1, "model", 0), 9),
        ("stages.1.model.w=9", ("stages", 1, "model", "w"), 9),
        ("run.kwargs.a=2", ("run", "kwargs", "a"), 2),
        ("run.obj=[1]", ("run", "obj"), [1]),
        ("get.obj.w=2", ("get", "obj", "w"), 2),
        ("name=null", ("name",), None),
        ("name=", ("name",), None),
        ("name=a=b", ("name",), "a=b"),
        ("name='1'", ("name",), "1"),
        ("name=no", ("name",), "no"),
        ("name=[1, {a: b}]", ("name",), [1, {"a": "b"}]),
        ("name=!run steps", ("name",), RunValue("steps")),
        ("name=!get:torch.float32", ("name",), Get("torch.float32")),
        (
            "stages.0.optimizer=!call:torch.optim.Adam {lr: 1}",
            ("stages", 0, "optimizer"),
            Call("torch.optim.Adam", kwargs={"lr": 1}),
        ),
        ("new.deep.key=1", ("new", "deep", "key"), 1),
        ("plain.y.new=1", ("plain", "y", "new"), 1),
        ("stages=[]", ("stages",), []),
    ],
)
def test_set(option: str, path: tuple, value: object) -> None:
    document = loads(CONFIG, overrides=[option])
    found = document.data
    for key in path:
        part = found.parts() if hasattr(found, "parts") else found
        found = part[key]
    assert found == value
    assert type(found) is type(value)
    assert str(document.mark(path)) == f"--set {option}"


def test_set_a_part_of_a_text() -> None:
    assert loads(CONFIG, overrides=["path.1=c"]).data["path"] == "a/c"
    with pytest.raises(ConfigError, match=r"^<string>:8:7: path: !pathjoin: joins texts and numbers, not \['c'\]$"):
        loads(CONFIG, overrides=["path.1=[c]"])


def test_set_in_order() -> None:
    data = loads(CONFIG, overrides=["name={a: 1}", "name.b=2", "name.a=3"]).data
    assert data["name"] == {"a": 3, "b": 2}


def test_set_in_an_alias() -> None:
    """An aliased call is one object; an aliased mapping is only written once."""
    data = loads(CONFIG, overrides=["stages.1.optimizer.lr=7", "alias.y.z=7"]).data
    assert data["stages"][0]["optimizer"] is data["stages"][1]["optimizer"]
    assert data["stages"][0]["optimizer"].kwargs["lr"] == 7
    assert (data["plain"]["y"], data["alias"]["y"]) == ({"z": 1}, {"z": 7})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("stages.3.epochs=1", "stages.3: there is no item 3: the list has 2 items"),
        ("stages.-3.epochs=1", "stages.-3: there is no item -3: the list has 2 items"),
        ("stages.2=1", "stages.2: there is no item 2: the list has 2 items"),
        ("stages.x=1", "stages.x: 'x' is not a list index\n    hint: write stages.0"),
        ("name.x=1", "name: this is a string, with nothing inside\n    hint: write --set 'name={x: ...}'"),
        ("none.x=1", "none: this is null, with nothing inside"),
        ("stages.0.epochs.x=1", "stages.0.epochs: this is a number, with nothing inside"),
        ("path.3=1", "path.3: a !join has no part '3'"),
        ("get.ob.w=1", "get.ob: a !getattr has no part 'ob'\n    hint: did you mean 'obj'?"),
        ("run.kwargs=3", "run.kwargs: this must stay a mapping, not a number"),
        ("run.args={}", "run.args: this must stay a list, not a mapping"),
        ("name", "no '=' between a path and a value\n    hint: write --set stages.distill.epochs=1"),
        ("", "no '=' between"),
        ("=1", "an empty name in the path ''"),
        ("a..b=1", "an empty name in the path 'a..b'"),
        (".a=1", "an empty name in the path '.a'"),
        ("a.=1", "an empty name in the path 'a.'"),
        ("name=[1", "not valid YAML"),
        ("name=a: b: c", "a second ':'"),
        ("name=True", "True is not a YAML value"),
        ("name={a: !call:X}", "YAML takes the '}' behind !call:X"),
        ("name=*p", "there is no anchor &p above"),
        ("name=\x00", "control character U+0000"),
        (".".join("a" * 65) + "=1", "a path of 65 names: at most 64"),
        ("plain.x=" + "[" * 64 + "]" * 64, "this makes the config too deep or too large"),
        ("extends=x.yaml", "extends: extends is read before options are"),
    ],
)
def test_set_problems(option: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(CONFIG, overrides=[option])
    assert str(caught.value).startswith(f"--set {option}: {message}")


def test_all_bad_options_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        loads(CONFIG, overrides=["stages.9.x=1", "name.x=1", "name=2"])
    assert [problem.path for problem in caught.value.problems] == ["stages.9", "name"]
