"""Methods: what a stage's ``method`` becomes, what wins over what, and what is wrong with a name or a parameter."""

from __future__ import annotations

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
        ("method: nowhere.yaml", "nowhere.yaml: the preset cannot be read", None),
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
