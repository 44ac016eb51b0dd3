"""The JSON Schema for editors: every shipped config names one that lies beside it and keeps it, and mistakes do not."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from kd_core.editors import config_schema, custom_tags

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
FOLDERS = {"vision": "vision", "detection": "vision", "glue": "glue", "seg": "seg"}
"""The folders of configs, and those where their schemas are."""
LINE = "# yaml-language-server: $schema="


class Editor(yaml.SafeLoader):
    """Reads YAML as an editor's language server: what stands behind a tag is what counts."""


def _behind(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else node.value


Editor.add_multi_constructor("!", _behind)


@cache
def validator(folder: str) -> jsonschema.Draft7Validator:
    """Of the schema that a folder's configs name."""
    schema = json.loads((CONFIGS / FOLDERS[folder] / "schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft7Validator(schema)


@cache
def configs(folder: str) -> dict[str, Any]:
    """A folder's configs by name, as an editor sees them."""
    files = sorted((CONFIGS / folder).glob("*.yaml"))
    return {file.name: yaml.load(file.read_text(encoding="utf-8"), Editor) for file in files}


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_shipped_config_keeps_the_schema(folder: str) -> None:
    assert configs(folder)
    wrong = [
        f"{name}: {error.json_path} {error.message[:200]}"
        for name, config in configs(folder).items()
        for error in validator(folder).iter_errors(config)
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_shipped_config_names_the_schema_behind_its_command(folder: str) -> None:
    """From the config's own folder, so that it is found in a clone and in an installed package."""
    for file in sorted((CONFIGS / folder).glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        line = lines[1 if lines[0].startswith("# kd-") else 0]
        assert line.startswith(LINE), f"{file.name} does not name its schema: python scripts/make_schemas.py"
        assert (file.parent / line.removeprefix(LINE)).resolve() == CONFIGS / FOLDERS[folder] / "schema.json"


def test_a_schema_beside_the_configs_is_the_one_of_the_command() -> None:
    """But for the parameters of torch's and torchvision's classes, which depend on their versions."""
    made = json.loads(json.dumps(config_schema(("image_classification", "object_detection"))))
    beside = json.loads((CONFIGS / "vision" / "schema.json").read_text(encoding="utf-8"))
    for part in ("wires", "term", "adapter", "method"):
        assert made["definitions"][part] == beside["definitions"][part], "python scripts/make_schemas.py"
    assert made["properties"]["checkpoint"] == beside["else"]["properties"]["checkpoint"]


@pytest.mark.slow
def test_the_schemas_are_current() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "make_schemas.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["vision", "glue", "seg"])
def test_a_schema_is_one(folder: str) -> None:
    jsonschema.Draft7Validator.check_schema(validator(folder).schema)


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
    assert list(validator("vision").iter_errors(yaml.load(GOOD, Editor))) == []


@pytest.mark.parametrize(("path", "value"), BROKEN)
def test_a_mistake_does_not(path: str, value: object) -> None:
    config = copy.deepcopy(yaml.load(GOOD, Editor))
    *above, last = path.split(".")
    place = config
    for key in above:
        place = place[key]
    place[last] = value
    errors = list(validator("vision").iter_errors(config))
    assert errors
    assert all(above[: len(error.absolute_path)] == list(error.absolute_path)[: len(above)] for error in errors)


STRICT = ("data", "runtime", "checkpoint")
"""Mappings of which every key is known."""
WRONG: dict[str, Any] = {
    "epochs": -1,
    "steps": "many",
    "batch_size": 0.5,
    "max_grad_norm": "x",
    "ema": 2,
    "temperature": -4,
    "weight": [],
    "val": "half",
    "arch": 7,
    "zoo": 7,
    "train": 3,
    "freeze": "student",
}
"""Values that their keys cannot have."""


def mutants(folder: str) -> Iterator[tuple[str, Any]]:
    """Every shipped config with one mistake: a key misspelt, or a value that cannot be."""
    for name, config in configs(folder).items():
        for path in known_places(config):
            for change in ("misspelt", "value"):
                broken = copy.deepcopy(config)
                place = broken
                for key in path[:-1]:
                    place = place[key]
                if change == "misspelt":
                    place[f"{path[-1]}z"] = place.pop(path[-1])
                elif path[-1] in WRONG:
                    place[path[-1]] = WRONG[path[-1]]
                else:
                    continue
                yield f"{name}: {'.'.join(path)} {change}", broken


def known_places(config: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The paths of keys that the schema knows all of: not those behind calls, and not names that a user chooses."""
    if "grid" in config or "config" in config:
        return
    yield from ((key,) for key in config)
    for section in STRICT:
        if isinstance(config.get(section), dict):
            yield from ((section, key) for key in config[section])
    for stage, keys in (config.get("stages") or {}).items():
        yield from (("stages", stage, key) for key in keys or ())
        for term, values in ((keys or {}).get("losses") or {}).items():
            if isinstance(values, dict) and isinstance(values.get("loss"), str):
                yield from (("stages", stage, "losses", term, key) for key in values if key != "loss")


@pytest.mark.parametrize("folder", FOLDERS)
def test_shipped_configs_with_a_mistake_do_not_keep_it(folder: str) -> None:
    """Some of them, in all 200 and more; the others are tried with the slow tests."""
    broken = list(mutants(folder))[::7]
    assert len(broken) >= 30
    assert [name for name, config in broken if validator(folder).is_valid(config)] == []


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_shipped_configs_with_any_mistake_do_not_keep_it(folder: str) -> None:
    assert [name for name, config in mutants(folder) if validator(folder).is_valid(config)] == []


def test_losses_and_methods_bring_their_docs() -> None:
    terms = validator("vision").schema["definitions"]["term"]["anyOf"][0]["properties"]["loss"]
    (kd,) = [choice for choice in terms["anyOf"] if choice.get("const") == "kd"]
    assert kd["description"].startswith("KL divergence of the student's softened outputs")


def test_the_tags_are_those_that_a_config_may_call() -> None:
    tags = custom_tags()
    assert "!call:torch.optim.SGD mapping" in tags
    assert "!call:torch.nn.ReLU mapping" in tags
    assert not any("Tensor:" in tag for tag in tags)
