"""Methods: what a stage's ``method`` becomes, what wins over what, and what is wrong with a name or a parameter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from kd_core.config import load, loads
from kd_core.config.syntax import methods
from kd_core.config.syntax.methods import METHODS
from kd_core.errors import ConfigError

CONFIG = """
task: x
models: {student: {}, teacher: {}}
stages:
  distill:
    epochs: 3
    batch_size: 8
    METHOD
    optimizer: !call:torch.optim.SGD {lr: 0.1}
    scheduler: !call:torch.optim.lr_scheduler.StepLR {step_size: 1}
"""
PRESETS = {
    "first": """
about: {title: The first, authors: Ada, year: 2020}
parameters: {weight: stage.losses.a.weight, width: [adapters.first_map.out_features, stage.losses.b.width]}
adapters: {first_map: {module: projector, inputs: student.@penultimate, out_features: 4}}
stage:
  losses: {a: {loss: mse, weight: 2.0}, b: {loss: wide, width: 4}, ce: {loss: cross_entropy, weight: 1.0}}
""",
    "second": """
stage: {views: rotations, losses: {c: {loss: mse}, ce: {loss: cross_entropy, weight: 0.5}}}
""",
    "staged": """
parameters: {epochs: before.staged_before.epochs}
before: {staged_before: {epochs: 5, train: [adapters.x], max_grad_norm: 1.0, losses: {p: {loss: mse}}}}
stage: {losses: {q: {loss: mse}}}
""",
}


@pytest.fixture(autouse=True)
def presets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "presets"
    folder.mkdir()
    for name, text in PRESETS.items():
        (folder / f"{name}.yaml").write_text(text)
    monkeypatch.setattr(methods, "OWN", folder)
    return folder


def expanded(method: str, *overrides: str) -> dict[str, Any]:
    return loads(CONFIG.replace("METHOD", method), overrides=overrides).data


def test_a_method_becomes_terms_and_adapters() -> None:
    data = expanded("method: first")
    assert list(data) == ["task", "models", "adapters", "stages"]
    assert data["adapters"]["first_map"]["out_features"] == 4
    stage = data["stages"]["distill"]
    assert stage["losses"] == {
        "a": {"loss": "mse", "weight": 2.0},
        "b": {"loss": "wide", "width": 4},
        "ce": {"loss": "cross_entropy", "weight": 1.0},
    }
    assert (stage["epochs"], "method" in stage) == (3, False)


def test_parameters_stand_where_the_preset_says() -> None:
    data = expanded("method: {method: first, weight: 7.0, width: 9}")
    assert data["stages"]["distill"]["losses"]["a"]["weight"] == 7.0
    assert data["stages"]["distill"]["losses"]["b"]["width"] == 9
    assert data["adapters"]["first_map"]["out_features"] == 9
    assert METHODS.get("first").options["width"].default == 4  # the preset itself is as it was


def test_what_the_config_writes_wins() -> None:
    data = expanded("method: first\n    losses: {a: {weight: 3.0}, b: null}", "adapters.first_map.out_features=5")
    assert data["stages"]["distill"]["losses"]["a"] == {"loss": "mse", "weight": 3.0}
    assert data["stages"]["distill"]["losses"]["b"] is None
    assert data["adapters"]["first_map"] == {"module": "projector", "inputs": "student.@penultimate", "out_features": 5}


def test_of_several_methods_the_later_one_wins() -> None:
    stage = expanded("methods: [first, {method: second}]")["stages"]["distill"]
    assert set(stage["losses"]) == {"a", "b", "c", "ce"}
    assert (stage["losses"]["ce"]["weight"], stage["views"]) == (0.5, "rotations")
    other = expanded("methods: [second, first]")["stages"]["distill"]
    assert other["losses"]["ce"]["weight"] == 1.0


def test_a_method_is_one_option() -> None:
    assert set(expanded("method: first", "stages.distill.method=second")["stages"]["distill"]["losses"]) == {"c", "ce"}
    taken_back = expanded("method: first", "stages.distill.method=null", "stages.distill.methods=[second]")
    assert "adapters" not in taken_back


def test_a_stage_before_takes_from_the_naming_one_and_hands_nothing_on() -> None:
    stages = expanded("method: staged")["stages"]
    assert list(stages) == ["staged_before", "distill"]
    before, after = stages["staged_before"], stages["distill"]
    assert (before["epochs"], before["batch_size"], before["scheduler"]) == (5, 8, None)
    assert before["optimizer"] == after["optimizer"]
    assert (after["epochs"], after["train"], after["max_grad_norm"]) == (3, None, None)
    assert after["losses"] == {"q": {"loss": "mse"}}
    assert after["scheduler"] is not None


def test_a_stage_before_can_be_changed_by_its_name() -> None:
    stages = expanded("method: {method: staged, epochs: 9}", "stages.staged_before.batch_size=2")["stages"]
    assert list(stages) == ["staged_before", "distill"]
    assert (stages["staged_before"]["epochs"], stages["staged_before"]["batch_size"]) == (9, 2)
    assert stages["staged_before"]["train"] == ["adapters.x"]


def test_what_an_earlier_stage_says_is_handed_on_over_the_stage_before() -> None:
    text = CONFIG.replace("METHOD", "method: staged").replace(
        "stages:", "stages:\n  warm: {epochs: 1, max_grad_norm: 4.0, losses: {w: {loss: mse}}}"
    )
    stages = loads(text).data["stages"]
    assert list(stages) == ["warm", "staged_before", "distill"]
    assert stages["distill"]["max_grad_norm"] == 4.0
    assert stages["staged_before"]["max_grad_norm"] == 1.0


def test_a_file_is_a_method(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("stage: {losses: {m: {loss: mse}}}")
    (tmp_path / "config.yaml").write_text(CONFIG.replace("METHOD", "method: mine.yaml"))
    assert list(load(tmp_path / "config.yaml").data["stages"]["distill"]["losses"]) == ["m"]


def test_places_in_a_preset_are_told() -> None:
    document = loads(CONFIG.replace("METHOD", "method: second"))
    mark = document.mark(("stages", "distill", "losses", "c", "loss"))
    assert (Path(mark.file).name, mark.line) == ("second.yaml", 2)
    assert document.mark(("stages", "distill", "epochs")).file == "<string>"


@pytest.mark.parametrize(
    ("method", "message", "hint"),
    [
        ("method: frist", "stages.distill.method: there is no method 'frist'", "did you mean 'first'?"),
        ("method: {method: first, wieght: 1}", "first has no parameter 'wieght'", "did you mean 'weight'?"),
        ("method: {weight: 1}", "a method must be a name, not a mapping", "write `method: dkd`"),
        ("method: 3", "a method must be a name, not a number", "`list methods` names them"),
        ("methods: first", "methods must be a list, not a string", "write `method:` for one"),
        ("method: first\n    methods: [second]", "give 'method' or 'methods', not both", None),
        ("method: nowhere.yaml", "stages.distill.method: nowhere.yaml: no such file", None),
        ("method: ../../etc/passwd", "there is no method '../../etc/passwd'", None),
    ],
)
def test_what_is_wrong_with_a_method_is_told_at_its_place(method: str, message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        expanded(method)
    text = str(caught.value)
    assert message in text
    assert hint is None or hint in text
    assert text.startswith("<string>:") or "cannot be read" in text


def test_every_mistake_of_all_stages_is_told_at_once() -> None:
    text = CONFIG.replace("METHOD", "method: frist") + "  more: {method: secnd}\n"
    with pytest.raises(ConfigError) as caught:
        loads(text)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("- 1", "a preset is a mapping of about, parameters"),
        ("stages: {}", "a preset has no part 'stages'"),
        ("stage: 3", "stage must be a mapping, not a number"),
    ],
)
def test_what_is_no_preset_is_told(preset: str, message: str, presets: Path) -> None:
    (presets / "broken.yaml").write_text(preset)
    with pytest.raises(ConfigError, match=message):
        expanded("method: broken")


def test_presets_of_other_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "their_methods"
    folder.mkdir()
    (folder / "theirs.yaml").write_text("stage: {losses: {t: {loss: mse}}}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(methods, "plugins", lambda group: ["their_methods"])
    assert list(expanded("method: theirs")["stages"]["distill"]["losses"]) == ["t"]
    assert "theirs" in METHODS.names()


ELSEWHERE = "which is not in this preset"


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("parameters: {x: 3}", "the parameter 'x' must be a place, not a number"),
        ("parameters: {x: null}", "the parameter 'x' must be a place, not null"),
        ("parameters: {x: []}", "the parameter 'x' must be a place, not a list"),
        ("parameters: {x: {a: b}}", "the parameter 'x' must be a place, not a mapping"),
        ("parameters: {x: ''}", f"the parameter 'x' sets '', {ELSEWHERE}"),
        ("parameters: {x: stage}\nstage: {a: 1}", f"the parameter 'x' sets 'stage', {ELSEWHERE}"),
        ("parameters: {x: about.title}\nabout: {title: a}", f"sets 'about.title', {ELSEWHERE}"),
        ("parameters: {x: [stage.a, stage.b]}\nstage: {a: 1}", f"sets 'stage.b', {ELSEWHERE}"),
        ("before: {a: [1]}", "before.a must be a mapping, not a list"),
        ("before: {a: null}", "before.a must be a mapping, not null"),
        ("before: {a: {method: first}}", "a preset names no other method"),
        ("stage: {methods: [first]}", "a preset names no other method"),
        ("# " + 300_000 * "x", "own.yaml: larger than 256 KiB"),
        ("before: {distill: {epochs: 1}}", "puts a stage 'distill' before this one, which has the same name"),
    ],
)
def test_what_a_preset_may_not_say(preset: str, message: str, presets: Path) -> None:
    (presets / "own.yaml").write_text(preset)
    with pytest.raises(ConfigError) as caught:
        expanded(f"method: {{method: {presets / 'own.yaml'}}}")
    assert message in str(caught.value)
    assert caught.value.problems[0].path.startswith("stages.distill.method")


def test_a_preset_is_a_regular_file_of_utf_8(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match=r"pipe.yaml: this is not a regular file"):
        expanded(f"method: {tmp_path / 'pipe.yaml'}")
    (tmp_path / "latin.yaml").write_bytes(b"about: {}\n# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yaml:2:3: stages.distill.method: not UTF-8 text"):
        expanded(f"method: {tmp_path / 'latin.yaml'}")


def test_a_parameter_may_stand_in_a_call_or_a_list(presets: Path) -> None:
    (presets / "own.yaml").write_text(
        "parameters: {gamma: stage.sampler.gamma, first: stage.train.0}\n"
        "stage: {sampler: !call:torch.optim.SGD {lr: 1.0, gamma: 0.5}, train: [student, adapters.x]}"
    )
    stage = expanded("method: {method: own, gamma: 0.25, first: teacher}")["stages"]["distill"]
    assert stage["sampler"].kwargs == {"lr": 1.0, "gamma": 0.25}
    assert stage["train"] == ["teacher", "adapters.x"]


def test_a_value_that_is_given_is_not_replaced_by_a_later_method() -> None:
    expected = "first's weight is replaced: second, which comes later, sets stage.losses.a.weight"
    with pytest.raises(ConfigError, match="stages.distill.methods: " + expected.replace("second", "first")):
        expanded("methods: [{method: first, weight: 3.0}, first]")
    data = expanded("methods: [first, {method: first, weight: 3.0}]")
    assert data["stages"]["distill"]["losses"]["a"]["weight"] == 3.0


TWO = """
task: x
stages:
  one: {epochs: 1, batch_size: 8, method: ONE}
  two: {epochs: 1, batch_size: 16, method: TWO}
"""


def two(one: str, other: str) -> dict[str, Any]:
    return loads(TWO.replace("ONE", one).replace("TWO", other)).data


def test_two_stages_share_the_stage_before() -> None:
    stages = two("{method: staged, epochs: 2}", "{method: staged, epochs: 2}")["stages"]
    assert list(stages) == ["staged_before", "one", "two"]
    assert (stages["staged_before"]["batch_size"], stages["staged_before"]["epochs"]) == (8, 2)


@pytest.mark.parametrize(
    ("one", "other", "what"),
    [
        ("{method: staged, epochs: 2}", "staged", "stage 'staged_before'"),
        ("{method: first, width: 2}", "{method: first, width: 3}", "adapter 'first_map'"),
    ],
)
def test_two_stages_want_the_same_of_one_name(one: str, other: str, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"stages.two.method: its {what} is not that of the stage 'one'"):
        two(one, other)


@pytest.mark.parametrize("after", [True, False])
def test_a_stage_that_a_method_puts_before_names_no_method(after: bool) -> None:
    lines = ["  distill: {epochs: 1, method: staged}", "  staged_before: {method: first}"]
    with pytest.raises(ConfigError, match=r"stages.staged_before: the method of 'distill' puts this stage before it"):
        loads("\n".join(["task: x", "stages:", *(lines if after else lines[::-1])]))


def test_a_stage_before_that_is_no_mapping_is_told() -> None:
    with pytest.raises(ConfigError, match=r"stages.staged_before: must be a mapping, not a number"):
        loads("task: x\nstages: {staged_before: 3, distill: {epochs: 1, method: staged}}")


def test_what_the_config_says_of_a_stage_before_is_not_handed_on() -> None:
    data = loads("task: x\nstages: {staged_before: {max_grad_norm: 2.0}, distill: {epochs: 1, method: staged}}").data
    assert data["stages"]["staged_before"]["max_grad_norm"] == 2.0
    assert data["stages"]["distill"]["max_grad_norm"] is None


def test_what_methods_and_the_config_freeze_adds_up(presets: Path) -> None:
    (presets / "frozen.yaml").write_text("stage: {freeze: [adapters.a]}")
    (presets / "other.yaml").write_text("stage: {freeze: [adapters.b]}")
    stage = expanded("methods: [frozen, first, other]\n    freeze: [student.stem]")["stages"]["distill"]
    assert stage["freeze"] == ["adapters.a", "adapters.b", "student.stem"]
    assert expanded("method: frozen")["stages"]["distill"]["freeze"] == ["adapters.a"]


def test_a_method_that_says_what_is_trained_is_not_combined(presets: Path) -> None:
    (presets / "own.yaml").write_text("stage:\n  train: [student]")
    assert expanded("methods: [own]")["stages"]["distill"]["train"] == ["student"]
    with pytest.raises(ConfigError, match=r"own.yaml:2:10: .*is not combined with another, which it would freeze"):
        expanded("methods: [own, first]")


def test_edits_of_config_and_methods_add_up(presets: Path) -> None:
    """Those of the config come first, and those that two methods have alike come once."""
    for name in ("cut", "cut_too"):
        (presets / f"{name}.yaml").write_text(
            f"parameters: {{name: models.student.edit.1.name}}\n"
            f"models: {{student: {{edit: [{{truncate: a}}, {{insert: {name}, after: b, name: n}}]}}}}\n"
            f"stage: {{losses: {{a: {{loss: mse}}}}}}"
        )
    both = "methods: [{method: cut, name: m}, cut_too]"
    data = expanded(both, "models.student={arch: x, edit: [{freeze: c}]}")
    first, second = ({"insert": name, "after": "b", "name": short} for name, short in (("cut", "m"), ("cut_too", "n")))
    assert data["models"]["student"] == {"arch": "x", "edit": [{"freeze": "c"}, {"truncate": "a"}, first, second]}
    bare = expanded("method: cut", "models.student=!call:torch.nn.Identity {}")["models"]["student"]
    assert list(bare) == ["call", "edit"]
    assert len(bare["edit"]) == 2


def test_the_optimiser_of_a_method_takes_the_values_of_the_stages_sgd(presets: Path) -> None:
    text = "stage: {losses: {a: {loss: mse}}, optimizer: !call:kd.Special {lr: 9, task: [a]}}"
    (presets / "special.yaml").write_text(text)
    for written, keys in (
        ("!call:torch.optim.SGD {lr: 0.1, momentum: 0.8}", {"lr": 0.1, "task": ["a"], "momentum": 0.8}),
        ("!call:kd.Special {task: [b], lr: 2}", {"lr": 2, "task": ["b"]}),
    ):
        for optimizer in (written, f"{{call: {written}, groups: []}}"):
            made = expanded("method: special", f"stages.distill.optimizer={optimizer}")["stages"]["distill"][
                "optimizer"
            ]
            call = made["call"] if isinstance(made, dict) else made
            assert (call.target, call.kwargs) == ("kd.Special", keys)
    with pytest.raises(ConfigError, match=r"trains with kd\.Special, which takes the place of torch\.optim\.SGD"):
        expanded("method: special", "stages.distill.optimizer=!call:torch.optim.Adam {lr: 0.1}")
