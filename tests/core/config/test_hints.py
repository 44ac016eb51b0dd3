"""What a newcomer types, in other tools' words, and what the hint says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kd_core.adapters import ADAPTERS
from kd_core.config.hints import SCHEMAS, key_hint, place_of
from kd_core.errors import ConfigProblem, KDError
from kd_core.experiment import Experiment
from kd_core.losses import LOSSES, loss_signature
from kd_core.runs.run_folder import RunFolder
from kd_core.signatures import values_of
from kd_core.study.spec import StudySpec, read
from kd_core.synonyms import ELSEWHERE, NAMES, NO_KEY, REMARKS, SHAPES, SYNONYMS, VALUES
from kd_core.task import TASKS
from kd_vision.data.spec import DataSpec

CONFIG = """\
task: image_classification
data: {name: digits}
models:
  student: {arch: cnn}
  teacher: {arch: cnn, weights: null}
stages:
  distill:
    epochs: 1
    batch_size: 32
    losses: {kd: {loss: kd, temperature: 4.0}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""
SWEEP = "config: good.yaml\ngrid:\n- {stages.distill.epochs: [1, 2]}\n"


def entries() -> Iterator[tuple[str, str, str]]:
    """(place, target, word) of every synonym."""
    for tables in (SYNONYMS, ELSEWHERE):
        for place, table in tables.items():
            for target, words in table.items():
                yield from ((place, target, word) for word in words.split())


def keys_at(place: str) -> set[str]:
    """Every key that may stand at a place, those of registered things too."""
    if place == "data":
        return {key for name in TASKS.names() for key in TASKS.get(name)().Data.model_fields}
    if place == "study":
        return set(StudySpec.model_fields)
    if place == "call":
        from torch.optim import SGD
        from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR

        return {key for each in (SGD, CosineAnnealingLR, LinearLR, MultiStepLR) for key in values(each)} | {"step_size"}
    keys = set(SCHEMAS[place].model_fields)
    if place == "stages.*.losses.*":
        for name in LOSSES.names():
            signature = loss_signature(LOSSES.get(name))
            keys |= {*signature.wires, *signature.values}
    if place == "adapters.*":
        keys |= {key for name in ADAPTERS.names() for key in values_of(ADAPTERS.get(name))}
    return keys


def values(function: Any) -> list[str]:
    import inspect

    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(("place", "target", "word"), list(entries()))
def test_every_synonym_leads_to_a_key(place: str, target: str, word: str) -> None:
    if target in keys_at(place):
        return
    deeper = place and target.split(".")[0] in keys_at(place)
    *above, last = [*place.split("."), *target.split(".")] if deeper else target.split(".")
    parent = place_of(above)
    if parent == "models":  # the name of a model
        assert last in ("student", "teacher")
    else:
        assert last in keys_at(parent)


def test_no_word_is_a_key_of_its_own_place_or_listed_twice() -> None:
    for place, table in SYNONYMS.items():
        words = [word for each in table.values() for word in each.split()]
        assert len(words) == len(set(words)), place
        if place in SCHEMAS:
            assert not set(words) & set(SCHEMAS[place].model_fields), place


def test_remarks_and_shapes_are_of_places_and_words_that_are_known() -> None:
    known = {(place, word) for place, _, word in entries()}
    assert set(REMARKS) <= known
    assert not set(NO_KEY) & known
    assert {place for place, _ in NO_KEY} <= {*SCHEMAS, "data"}
    tables = {"stages", "stages.*.losses", "models", "adapters", "data", "data.files", "data.shards", "observers"}
    assert set(SHAPES) <= {*SCHEMAS, *tables}


def test_words_for_values_stand_for_values_that_may_be_chosen() -> None:
    for place, table in VALUES.items():
        section, _, key = place.rpartition(".")
        field = SCHEMAS[section].model_fields[key] if section in SCHEMAS else DataSpec.model_fields[key]
        assert set(table) <= set(re.findall(r"\w+", str(field.annotation))), place
        words = [word for each in table.values() for word in each.split()]
        assert len(words) == len(set(words)), place


def test_synonyms_of_names_lead_to_registered_names() -> None:
    registries = {"loss": LOSSES, "adapter": ADAPTERS, "task": TASKS}
    for kind, names in NAMES.items():
        assert set(names) <= set(registries[kind].names())


def load(tmp_path: Path, text: str, *overrides: str) -> list[ConfigProblem]:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(KDError) as caught:
        Experiment.load(path, overrides=overrides)
    return caught.value.problems


@pytest.mark.parametrize(
    ("old", "new", "path", "hint"),
    [
        ("epochs: 1", "num_train_epochs: 1", "stages.distill.num_train_epochs", "did you mean 'epochs'?"),
        ("epochs: 1", "epochs: 1\n    clip_grad_norm: 1.0", "stages.distill.clip_grad_norm", "'max_grad_norm'"),
        ("epochs: 1", "epochs: 1\n    gradient_accumulation_steps: 2", None, "'accumulation_steps'"),
        ("epochs: 1", "epochs: 1\n    lr_scheduler: x", "stages.distill.lr_scheduler", "'scheduler'"),
        ("epochs: 1", "epochs: 1\n    fp16: true", "stages.distill.fp16", "did you mean 'runtime.precision'?"),
        ("epochs: 1", "epochs: 1\n    seed: 3", "stages.distill.seed", "did you mean 'seed' at the top level?"),
        ("epochs: 1", "epochs: 1\n    metric_for_best_model: top1", None, "'stages.distill.monitor.metric'"),
        ("epochs: 1", "epochs: 1\n    warmup_steps: 10", None, "warm up with a scheduler"),
        ("temperature: 4.0", "T: 4.0", "stages.distill.losses.kd.T", "did you mean 'temperature'?"),
        ("temperature: 4.0", "alpha: 0.5", "stages.distill.losses.kd.alpha", "'weight'? It is the factor of one term"),
        ("loss: kd", "loss: KD", "stages.distill.losses.kd.loss", "did you mean 'kd'?"),
        ("loss: kd", "loss: KDLoss", "stages.distill.losses.kd.loss", "did you mean 'kd'?"),
        ("loss: kd", "loss: kd, teacher: Teacher.output", None, "did you mean 'teacher'?"),
        ("{lr: 0.1}", "{lr: 0.1, wd: 0.1}", "stages.distill.optimizer.wd", "did you mean 'weight_decay'?"),
        ("stages:", "epochs: 3\nstages:", "epochs", "did you mean 'stages.distill.epochs'?"),
        ("stages:", "dependencies: [x]\nstages:", "dependencies", "did you mean 'imports'?"),
        ("stages:", "teacher_model: {}\nstages:", "teacher_model", "did you mean 'models.teacher'?"),
        ("student: {arch: cnn}", "student: {key: cnn}", "models.student", "is 'key' meant to be 'arch'?"),
        ("student: {arch: cnn}", "student: {arch: cnn, ckpt: x}", "models.student.ckpt", "did you mean 'weights'?"),
        ("student: {arch: cnn}", "student: {arch: cnn, kwargs: {}}", "models.student.kwargs", "beside `arch`"),
        ("data: {name: digits}", "data: digits", "data", "write `data: {name: NAME}`"),
        ("{name: digits}", "{dataset_name: digits, name: digits}", "data.dataset_name", "did you mean 'name'?"),
        ("{kd: {loss: kd, temperature: 4.0}}", "[{loss: kd}]", "stages.distill.losses", "losses are named"),
        ("!call:torch.optim.SGD {lr: 0.1}", "SGD", "stages.distill.optimizer", "!call:torch.optim.SGD"),
    ],
)
def test_a_hint_names_what_another_tool_calls_otherwise(
    old: str, new: str, path: str | None, hint: str, tmp_path: Path
) -> None:
    assert old in CONFIG
    problem = load(tmp_path, CONFIG.replace(old, new, 1))[0]
    assert hint in (problem.hint or "")
    assert path is None or problem.path == path
    assert problem.mark is not None
    assert problem.mark.line > 0


def test_a_key_that_is_meant_is_not_reported_as_missing_too(tmp_path: Path) -> None:
    problems = load(tmp_path, CONFIG.replace("epochs: 1", "num_epochs: 1").replace("batch_size", "train_batch_size"))
    assert [problem.hint for problem in problems] == ["did you mean 'epochs'?", "did you mean 'batch_size'?"]


def test_a_synonym_whose_key_is_not_there_is_not_offered() -> None:
    assert key_hint(("stages", "a", "losses", "x", "T"), ["loss", "weight"], {}) == "choose one of: loss, weight"


def test_stages_as_a_list_are_one_error(tmp_path: Path) -> None:
    head = CONFIG[: CONFIG.index("stages:")]
    (problem,) = load(tmp_path, head + "stages:\n- epochs: 1\n- epochs: 2\n")
    assert problem.message == "must be a mapping, not a list of 2"
    assert "`stages: {NAME: {epochs: 1, ...}, ...}`" in (problem.hint or "")


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("stages.0.epochs=1", "did you mean stages.distill.epochs?"),
        ("stages[0].epochs=1", "did you mean stages.distill.epochs?"),
        ("stages.-1.epochs=1", "did you mean stages.distill.epochs?"),
        ("stages.distil.epochs=1", "did you mean 'distill'?"),
        ("models.student.edit[0].truncate=fc", "did you mean models.student.edit.0.truncate?"),
    ],
)
def test_an_option_knows_the_names_of_stages(option: str, hint: str, tmp_path: Path) -> None:
    (problem,) = load(tmp_path, CONFIG, option)
    assert problem.hint == hint
    assert problem.mark is not None
    assert problem.mark.file == f"--set {option}"


def test_an_option_can_add_a_whole_stage(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(CONFIG)
    plan = Experiment.load(path, overrides=["stages.tune={epochs: 2}"]).plan
    assert [stage.name for stage in plan.stages] == ["distill", "tune"]


def test_a_sweep_and_a_config_are_told_apart(tmp_path: Path) -> None:
    (problem,) = load(tmp_path, SWEEP)
    assert problem.message == "this is a sweep, not a config"
    assert "`sweep " in (problem.hint or "")
    path = tmp_path / "good.yaml"
    path.write_text(CONFIG)
    with pytest.raises(KDError, match=r"(?s)this is a config, not a sweep.*hint: `train "):
        read(path)
    path.write_text(SWEEP.replace("grid", "over"))
    with pytest.raises(KDError, match=r"(?s)unknown key 'over'.*did you mean 'grid'"):
        read(path)


def test_folders_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="this is a directory, not a config"):
        Experiment.load(tmp_path)
    (tmp_path / "a.yaml").write_text(CONFIG)
    with pytest.raises(KDError, match=r"(?s)a directory.*name a config in it, such as .*a\.yaml"):
        Experiment.load(tmp_path)
    (tmp_path / "config.yaml").write_text(CONFIG)
    with pytest.raises(KDError, match=r"(?s)this is a run folder, not a config.*`resume .*` continues the run"):
        Experiment.load(tmp_path)
    with pytest.raises(KDError, match=r"(?s)a\.yaml is not a run folder.*`train .*a\.yaml` starts a run"):
        RunFolder.open(tmp_path / "a.yaml")
