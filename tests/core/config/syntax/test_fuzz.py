"""Whatever is thrown at the loader, it answers with a document or a ConfigError."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kd_core.config import Builder, Document, Policy, dump, load, loads
from kd_core.errors import ConfigError, ConfigProblem

CONFIG = """\
base: &base {lr: 1e-3, name: "x"}
models:
  teacher: !import_call {key: Linear, package: torch.nn, init: {args: [2, 3]}}
  student: &s !call:torch.nn.Sequential [!call:torch.nn.ReLU {}, !get:torch.nn.ReLU ]
stages:
- {<<: *base, optimizer: !call:torch.optim.SGD {lr: 0.1}, also: *s}
- train: [!getattr [*s, weight], !call_method {obj: *s, method_name: eval}]
  steps: !run steps
path: !pathjoin ['~', !join [a, 1], !expanduser b]
"""
PIECES = [
    *"\t\n :-[]{},&*!|>'\"%@`?#~=<.0\\\x00\u2028\ud800",
    *[
        "<<: ",
        "!call:",
        "!import_call {",
        "!!python/object:os.system",
        "&a ",
        "*a",
        "*base",
        "---\n",
        "...",
        "\n- ",
        ": ",
    ],
    *[
        "!run ",
        "!join ",
        "!setattr [",
        "{}",
        "null",
        "True",
        "1e999",
        "\\x00",
        "extends: x\n",
        "\r",
        "\ufeff",
        "%TAG ! x\n",
    ],
]
bounded = settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


def loaded(action: Callable[[], Document]) -> Document | None:
    """The document, or None where a ConfigError with places is raised; any other exception fails the test."""
    problems: list[ConfigProblem] = []
    try:
        return action()
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(problem.mark for problem in problems)
    return None


def answer(text: str, overrides: tuple[str, ...] = ()) -> None:
    document = loaded(lambda: loads(text, overrides=overrides))
    if document is None:
        return
    assert Builder(Policy()).check(document.data) is not None
    if "nan" not in (written := dump(document.data)):
        assert loads(written).data == document.data


@bounded
@given(st.text(max_size=40) | st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
@example("%TAG ! \nx")
@example('"\\U00110000"')
def test_any_text(text: str) -> None:
    answer(text)


@bounded
@given(st.binary(max_size=40))
def test_any_bytes(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(data)
    loaded(lambda: load(path))


@bounded
@given(
    st.integers(0, len(CONFIG)), st.integers(0, 12), st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=3)
)
def test_a_changed_config(at: int, cut: int, pieces: list[str]) -> None:
    answer(CONFIG[:at] + "".join(pieces) + CONFIG[at + cut :])


paths = st.sampled_from(
    ["stages", "0", "-1", "models", "student", "teacher", "optimizer", "lr", "path", "obj", "x", "", "kwargs"]
)


@bounded
@given(st.lists(paths, max_size=5), st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=4))
def test_any_option(path: list[str], value: list[str]) -> None:
    answer(CONFIG, (f"{'.'.join(path)}={''.join(value)}",))
