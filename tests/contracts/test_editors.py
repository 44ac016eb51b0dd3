"""The JSON Schema for editors: every shipped config keeps it, and mistakes do not."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kd_core.editors import config_schema, custom_tags
from kd_core.study.spec import StudySpec

CONFIGS = Path(__file__).parents[2] / "configs"
TASKS = {
    "vision": ("image_classification", "object_detection"),
    "detection": ("image_classification", "object_detection"),
    "glue": ("text_classification",),
    "seg": ("semantic_segmentation",),
}


class Editor(yaml.SafeLoader):
    """Reads YAML as an editor's language server: what stands behind a tag is what counts."""


def _behind(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


Editor.add_multi_constructor("!", _behind)


@cache
def validator(tasks: tuple[str, ...]) -> jsonschema.Draft7Validator:
    schema = config_schema(tasks, StudySpec)
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("folder", TASKS)
def test_every_shipped_config_keeps_the_schema(folder: str) -> None:
    valid = validator(TASKS[folder])
    files = sorted((CONFIGS / folder).glob("*.yaml"))
    assert files
    wrong = [
        f"{file.name}: {error.json_path} {error.message[:200]}"
        for file in files
        for error in valid.iter_errors(yaml.load(file.read_text(encoding="utf-8"), Editor))
    ]
    assert wrong == []


GOOD = """
task: image_classification
seed: 1
data: {name: cifar10, val: 0.1, workers: 2, augment: crop_flip}
models:
  student: {arch: resnet20}
  teacher: {zoo: resnet56, mode: eval, input: {size: 32}}
adapters:
  hint: {module: projector, inputs: student.layer2, match: teacher.layer2, kernel: 1}
stages:
  distill:
    epochs: 3
    batch_size: 64
    max_grad_norm: 1.0
    losses:
      ce: {loss: cross_entropy, label_smoothing: 0.1}
      kd: {loss: kd, temperature: 4.0, weight: {schedule: cosine, start: 1.0, end: 0.0}}
      hint: {loss: mse, student: adapters.hint, teacher: teacher.layer2}
      mine: {loss: !call:torch.nn.HuberLoss {delta: 0.5}, input: student.fc, target: teacher.fc}
    optimizer: !call:torch.optim.SGD {lr: 0.1, momentum: 0.9}
    scheduler: {call: !call:torch.optim.lr_scheduler.PolynomialLR {total_iters: !run steps }, interval: step}
    monitor: {metric: top1, mode: max}
runtime: {device: cpu, precision: bf16}
checkpoint: {keep_last: 2}
"""
BROKEN: list[tuple[str, Any]] = [
    ("seed", "one"),
    ("seed", -1),
    ("sed", 1),
    ("name", "a/b"),
    ("log_every", 0),
    ("imports", "mine"),
    ("data.rot", "x"),
    ("data.val", 1.5),
    ("data.workers", "many"),
    ("data.size", 0),
    ("models.student.trainable", "maybe"),
    ("models.student.copies", 0),
    ("models.student.copies", 1000),
    ("models.teacher.mode", "evil"),
    ("models.teacher.input.sice", 32),
    ("adapters.hint.kernl", 1),
    ("adapters.hint.norm", "yes"),
    ("adapters.hint.out_features", 0),
    ("adapters.hint.activation", "swish"),
    ("stages.distill.epochs", 0),
    ("stages.distill.epochs", 2.5),
    ("stages.distill.epoch", 2),
    ("stages.distill.batch_size", "64"),
    ("stages.distill.max_grad_norm", 0),
    ("stages.distill.ema", 1),
    ("stages.distill.losses.kd.temperatur", 4),
    ("stages.distill.losses.kd.temperature", 0),
    ("stages.distill.losses.kd.temperature", "warm"),
    ("stages.distill.losses.ce.label_smoothing", 2),
    ("stages.distill.losses.hint.student", "layer 2"),
    ("stages.distill.losses.hint.teacher", 5),
    ("stages.distill.losses.kd.standardize", 1),
    ("stages.distill.method", {"method": "crd", "negative": 5}),
    ("stages.distill.partners", "friend"),
    ("stages.distill.optimizer.lr", -1),
    ("stages.distill.optimizer.lr", "fast"),
    ("stages.distill.scheduler.interval", "day"),
    ("stages.distill.monitor.mode", "most"),
    ("stages.distill.freeze", "student"),
    ("runtime.device", "tpu"),
    ("runtime.precision", "int8"),
    ("checkpoint.keep_last", 0),
    ("checkpoint.keep", 3),
]


def test_what_is_right_keeps_the_schema() -> None:
    assert list(validator(TASKS["vision"]).iter_errors(yaml.load(GOOD, Editor))) == []


@pytest.mark.parametrize(("path", "value"), BROKEN)
def test_a_mistake_does_not(path: str, value: object) -> None:
    config = copy.deepcopy(yaml.load(GOOD, Editor))
    *above, last = path.split(".")
    place = config
    for key in above:
        place = place[key]
    place[last] = value
    errors = list(validator(TASKS["vision"]).iter_errors(config))
    assert errors
    assert all(above[: len(error.absolute_path)] == list(error.absolute_path)[: len(above)] for error in errors)


def test_losses_and_methods_bring_their_docs() -> None:
    terms = config_schema(("image_classification",))["definitions"]["term"]["anyOf"][0]["properties"]["loss"]
    (kd,) = [choice for choice in terms["anyOf"] if choice.get("const") == "kd"]
    assert kd["description"].startswith("KL divergence of the student's softened outputs")


def test_the_tags_are_those_that_a_config_may_call() -> None:
    tags = custom_tags()
    assert "!call:torch.optim.SGD mapping" in tags
    assert "!call:torch.nn.ReLU mapping" in tags
    assert not any("Tensor:" in tag for tag in tags)
