"""torchdistill's YAML is inert data here, and hostile YAML one error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kd_core.config.syntax.read import MAX_BYTES
from kd_core.errors import KDError
from kd_core.migrate.source import Node, Source, Symbol


@pytest.fixture
def node(tmp_path: Path) -> Callable[[str], Node]:
    def run(text: str) -> Node:
        file = tmp_path / "theirs.yaml"
        file.write_text(text, encoding="utf-8")
        return Source(str(file)).root()

    return run


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: !join ['x', 1, '-', 2.5]", "x1-2.5"),
        ("b: &name cifar\na: !join ['~/', *name]", "~/cifar"),
        ("a: !pathjoin ['~', data]", "~/data"),
        ("a: !expanduser ~/data", "~/data"),
        ("a: !import_get {package: torch.nn, key: ReLU}", Symbol("torch.nn.ReLU")),
        ("a: !getattr [!import_get {key: x.Weights}, V1]", Symbol("x.Weights.V1")),
        ("a: True", True),
        ("a: yes", True),
        ("a: 1e-5", "1e-5"),
        ("a: 1.0e-5", 1e-5),
        ("a: 2020-01-01", "2020-01-01"),
        ("a: [1, ~, x]", [1, None, "x"]),
    ],
)
def test_values_are_those_of_pyyaml_and_tags_are_inert(node: Callable[[str], Node], text: str, value: object) -> None:
    assert node(text)["a"].plain() == value


def test_a_key_may_be_joined(node: Callable[[str], Node]) -> None:
    assert node("n: &n emotions\na: {&id !join [*n, '/train']: 1}")["a"].names() == ["emotions/train"]


def test_calls_are_names_and_arguments(node: Callable[[str], Node]) -> None:
    call = node("a: !import_call {key: os.system, init: {kwargs: {command: 'touch /tmp/never'}}}")["a"].call()
    assert call is not None
    assert (call[0], call[1].plain()) == ("os.system", {"command": "touch /tmp/never"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a: !!python/object/apply:os.system ['touch x']",
            "!!python/object/apply:os.system is not a tag of torchdistill",
        ),
        ("a: !import_cal {key: x}", "!import_cal is not a tag of torchdistill"),
        ("a: &a [*a]", "stands inside the value it names"),
        ("a: " + "[" * 100 + "]" * 100, "nested deeper than 64 levels"),
        ("a: x\n---\nb: y", "a second document"),
        ("- a", "a config of torchdistill is a mapping, this is a list"),
        ("", "this is empty"),
        ("a: 'x", "not valid YAML"),
        ("a: \x07", "control character"),
        ("a: " + "9" * 5000, "is not a value of !!int"),
    ],
)
def test_hostile_or_broken_yaml_is_one_error(node: Callable[[str], Node], text: str, message: str) -> None:
    with pytest.raises(KDError, match=message.replace("(", r"\(").replace("[", r"\[")) as error:
        node(text)
    assert len(error.value.problems) == 1


def test_aliases_are_counted_as_if_written_out(node: Callable[[str], Node]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(KDError, match="more than 50000 values, with aliases written out"):
        node("\n".join(lines))


def test_a_large_file_is_refused(node: Callable[[str], Node]) -> None:
    with pytest.raises(KDError, match="larger than 256 KiB"):
        node("a: " + "x" * MAX_BYTES)


def test_keys_that_nobody_looked_at_are_problems(node: Callable[[str], Node]) -> None:
    root = node("a: {b: 1, c: 2, _d: 3, e: }\nf: {g: 1}\nh: 4")
    root["a"]["b"].number()
    root.unread(frozenset({"h"}))
    assert [problem.path for problem in root.source.problems] == ["a.c", "f"]
    assert str(root.source.problems[0].mark).endswith("theirs.yaml:1:14")
