"""Every registered method: its preset is whole, fits pairs of models, and trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import kd_vision.detection.models
import kd_vision.detection.task  # noqa: F401  which register detectors and their task
from kd_core.config import Policy, loads
from kd_core.config.syntax.methods import METHODS, Preset, value_at
from kd_core.errors import KDError
from kd_core.experiment import Experiment

CONFIGS = Path(__file__).parents[2] / "configs" / "vision"
CIFAR = """
task: image_classification
data: {name: cifar100}
models:
  student: {arch: STUDENT}
  teacher: TEACHER
stages:
  distill:
    epochs: 240
    batch_size: 64
    method: METHOD
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
    scheduler: !call:torch.optim.lr_scheduler.MultiStepLR {milestones: [150, 180, 210]}
"""
DIGITS = """
task: image_classification
data: {name: digits, limit: 48, augment: none, workers: 0}
models:
  student: STUDENT
  teacher: TEACHER
stages:
  distill:
    steps: 2
    batch_size: 16
    method: METHOD
    optimizer: !call:torch.optim.SGD {lr: 0.01}
"""
SCENES = """
task: object_detection
data: {name: scenes, limit: {train: 8, val: 4}, workers: 0}
models:
  student: &model {arch: ARCH, backbone: cnn, width: 4, pyramid_channels: 8, min_size: 64, max_size: 96}
  teacher: {<<: *model, weights: null, pyramid_channels: WIDTH}
stages:
  distill:
    steps: 2
    batch_size: 2
    method: METHOD
    optimizer: !call:torch.optim.SGD {lr: 0.001}
"""
GREY = "edit: [{replace: conv1, with: !call:torch.nn.Conv2d [1, 16, 3]}]"
RESNETS = {"cat_kd", "ofd"}
"""Methods that read a batch norm before the last activation, or the map whose mean the classifier takes."""
SEVERAL_TEACHERS = {"aekd", "aver", "ca_mkd", "ebkd"}
PAIRS = sorted(path.stem for path in CONFIGS.glob("cifar100_*_*.yaml") if path.stem.count("_") == 2)
REFUSED = {
    "ca_mkd": "teachers must be a list of tensors",
    "diffkd": "denoiser takes maps of one size",
    "dist_plus": "must be feature maps (B, C, H, W) with the same",
    "ebkd": "needs 2 teachers or more",
    "fsp": "with the same B and C",
    "kdsvd": "with the same B and C",
    "one": "forward failed on a dummy input",
}
"""Methods that need maps of equal channels or sizes, several teachers, or a last stage that is one module before the
classifier, with a part of what is said where that is not there."""
DETECTORS = [name for name in METHODS.names() if METHODS.get(name).about.get("task") == "object_detection"]
HEADS = {"crosskd": "retinanet", "crosskd_fcos": "fcos", "crosskd_gfl": "gfl", "ld": "gfl"}
"""Methods that read a detector's head, and whose it is."""
every_method = pytest.mark.parametrize("name", METHODS.names())
every_classifying_method = pytest.mark.parametrize("name", sorted({*METHODS.names()} - {*DETECTORS}))


def experiment(text: str, method: str, student: str, teacher: str) -> Experiment:
    """The experiment of a method, with as many teachers as it needs."""
    made = f"[{teacher}, {teacher}]" if method in SEVERAL_TEACHERS else teacher
    return Experiment.planned(
        loads(text.replace("METHOD", method).replace("STUDENT", student).replace("TEACHER", made)), Policy()
    )


@every_method
def test_a_preset_says_what_it_is(name: str) -> None:
    preset = METHODS.get(name)
    wanted = {"title"} if name == "ce" else {"title", "authors", "year", "url"}
    assert wanted <= set(preset.about)
    assert set(preset.about) <= {*wanted, "venue", "code", "published", "note", "task"}
    published: dict[str, Any] = dict(preset.about.get("published", {}))
    assert not published or published.pop("source")
    assert all(isinstance(figure, float) for figure in published.values())


@every_method
def test_parameters_name_values_of_the_preset(name: str) -> None:
    preset = METHODS.get(name)
    for parameter, paths in preset.places.items():
        values = [value_at(preset.root, path) for path in paths]
        assert all(value == values[0] for value in values), (parameter, paths, values)
        holders = [value_at(preset.root, path[:-1]) for path in paths]
        written = [getattr(holder, "kwargs", holder) for holder in holders]
        assert all(path[-1] in values for path, values in zip(paths, written, strict=True)), (parameter, paths)
        assert all(path[0] in ("stage", "before", "adapters", "models") for path in paths)


def test_no_method_takes_the_adapter_of_another() -> None:
    """An adapter of one name is the same adapter wherever it is, so that any two methods can stand in one config."""
    adapters: dict[str, dict[str, Any]] = {}
    for name in METHODS.names():
        for adapter, spec in (value_at(METHODS.get(name).root, ("adapters",)) or {}).items():
            assert adapters.setdefault(adapter, {**spec, "of": name}) == {**spec, "of": adapters[adapter]["of"]}


@every_classifying_method
def test_a_method_fits_models_of_one_family(name: str) -> None:
    assert experiment(CIFAR, name, "resnet8", "{arch: resnet14, weights: null}").check(strict=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
@every_classifying_method
def test_a_method_fits_a_pair_of_the_benchmark(name: str, pair: str) -> None:
    try:
        found = Experiment.load(CONFIGS / f"{pair}.yaml", overrides=[f"stages.distill.method={name}"]).check(
            strict=True
        )
    except KDError as error:
        found = str(error).splitlines()
    assert not found or (name in REFUSED and REFUSED[name] in found[0]), found


def before(preset: Preset) -> list[str]:
    """The names of the stages that a method puts before."""
    return list(value_at(preset.root, ("before",)) or {})


@every_classifying_method
def test_a_method_trains(name: str, tmp_path: Path) -> None:
    """A step of each of its stages and two of the last, on models whose landmarks are inferred."""
    overrides = [f"stages.{stage}={{steps: 1, epochs: null}}" for stage in before(METHODS.get(name))]
    text = DIGITS.replace("METHOD", name)
    student, made = "{arch: cnn, width: 4}", "{arch: cnn, width: 4, weights: null}"
    if name in RESNETS:
        student, made = f"{{arch: resnet8, {GREY}}}", f"{{arch: resnet14, weights: null, {GREY}}}"
    teacher = f"[{made}, {made}]" if name in SEVERAL_TEACHERS else made
    document = loads(text.replace("TEACHER", teacher).replace("STUDENT", student), overrides=overrides)
    result = Experiment.planned(document, Policy()).train(tmp_path / "run")
    assert 0 <= result.metrics["top1"] <= 100
    assert "method" not in (tmp_path / "run" / "config.yaml").read_text()


def detection(method: str, arch: str, width: int) -> Experiment:
    """The experiment of a method on a detector and a teacher with a pyramid of some width."""
    text = SCENES.replace("METHOD", method).replace("ARCH", arch).replace("WIDTH", str(width))
    return Experiment.planned(loads(text), Policy())


@pytest.mark.parametrize("arch", ["retinanet", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_method_fits_detectors(name: str, arch: str) -> None:
    if name in HEADS and arch != "retinanet":
        pytest.skip("it reads a head of another kind")
    assert detection(name, HEADS.get(name, arch), 12).check(strict=True) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_a_method_trains_a_detector(name: str, tmp_path: Path) -> None:
    result = detection(name, HEADS.get(name, "retinanet"), 8 if name in HEADS else 12).train(tmp_path / "run")
    assert 0 <= result.metrics["ap"] <= 100
