"""Every optimiser, scheduler, transform and loss that a config may name without trust, through check and three steps.

Whatever `check` says is right trains, and what does not train is one error that `check` finds at its place.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.transforms
from torch import nn
from torchvision.transforms import v2

from kd_core.config.calls import allowed
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.losses import LOSSES

CONFIG = """
task: image_classification
data: {name: digits, limit: 20, val: 4, augment: none, workers: 0}
models:
  student: {arch: cnn, width: 2}
  teacher: {arch: cnn, width: 2, weights: null}
stages:
  train:
    steps: 3
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.01}
"""
STAGE = "stages.train."
OUTCOMES = ("refused", "trained", "diverged")
ONE_CYCLE = "!call:torch.optim.lr_scheduler.OneCycleLR"
SCHEDULERS = {
    "CosineAnnealingLR": ["T_max: 3", "T_max: 0"],
    "CosineAnnealingWarmRestarts": ["T_0: 2"],
    "CyclicLR": ["base_lr: 0.01, max_lr: 0.1"],
    "ExponentialLR": ["gamma: 0.9"],
    "MultiStepLR": ["milestones: [1]", "milestones: [a]"],
    "OneCycleLR": [
        *("max_lr: 0.1, total_steps: 1", "max_lr: 0.1, total_steps: 3", "max_lr: 0.1, total_steps: !run steps"),
        *("max_lr: 0.1, total_steps: 20, pct_start: 0.0", "max_lr: 0.1, total_steps: !run steps, pct_start: 1.0"),
    ],
    "ReduceLROnPlateau": ["mode: max", "mode: min"],
    "StepLR": ["step_size: 1", "step_size: 0", "step_size: 1, last_epoch: 3"],
}
ARGUMENTS = {
    "CenterCrop": "[8]",
    "ConvertImageDtype": "{dtype: !get:torch.float32 }",
    "CutMix": "{num_classes: 10}",
    "FiveCrop": "[4]",
    "GaussianBlur": "[3]",
    "JPEG": "{quality: 50}",
    "MixUp": "{num_classes: 10}",
    "Normalize": "[[0.5], [0.5]]",
    "Pad": "[1]",
    "RandomAdjustSharpness": "[2]",
    "RandomAffine": "[10]",
    "RandomCrop": "[8]",
    "RandomPosterize": "[4]",
    "RandomResize": "{min_size: 8, max_size: 9}",
    "RandomResizedCrop": "[8]",
    "RandomRotation": "[10]",
    "RandomShortestSize": "[8]",
    "RandomSolarize": "[100]",
    "Resize": "[8]",
    "ScaleJitter": "[[8, 8]]",
    "TenCrop": "[4]",
    "ToDtype": "{dtype: !get:torch.float32 }",
    "UniformTemporalSubsample": "[1]",
}


def optimizers() -> Iterator[str]:
    for name, item in sorted(vars(torch.optim).items()):
        if isinstance(item, type) and issubclass(item, torch.optim.Optimizer) and item is not torch.optim.Optimizer:
            yield f"{STAGE}optimizer=!call:torch.optim.{name} {{}}"
            for flag in ("differentiable", "capturable", "foreach", "fused", "maximize", "amsgrad", "centered"):
                if flag in inspect.signature(item).parameters:
                    yield f"{STAGE}optimizer=!call:torch.optim.{name} {{{flag}: true}}"


def schedulers() -> Iterator[str]:
    for name, item in sorted(vars(torch.optim.lr_scheduler).items()):
        scheduler = isinstance(item, type) and issubclass(item, torch.optim.lr_scheduler.LRScheduler)
        if scheduler and item is not torch.optim.lr_scheduler.LRScheduler:
            for arguments in SCHEDULERS.get(name, [""]):
                call = f"!call:torch.optim.lr_scheduler.{name} {{{arguments}}}"
                for interval in ("epoch", "step"):
                    yield f"{STAGE}scheduler={{call: {call}, interval: {interval}}}"


def transforms() -> Iterator[str]:
    for module in (torchvision.transforms, v2):
        for name, item in sorted(vars(module).items()):
            if isinstance(item, type) and allowed.is_kind(item) and allowed.in_packages(item.__module__):
                yield f"data.augment=[!call:{module.__name__}.{name} {ARGUMENTS.get(name, '{}')}]"


def losses() -> Iterator[str]:
    for name in LOSSES.names():
        yield f"{STAGE}losses={{term: {{loss: {name}}}}}"
        yield f"{STAGE}losses={{term: {{loss: {name}, student: student.layers, teacher: teacher.layers}}}}"
    for name, item in sorted(vars(nn).items()):
        if isinstance(item, type) and issubclass(item, nn.Module) and name.endswith("Loss"):
            for target in ("batch.target", "teacher.output"):
                wires = f"input: student.output, target: {target}"
                yield f"{STAGE}losses={{term: {{loss: !call:torch.nn.{name} {{}}, {wires}}}}}"
    for call in (
        "LazyLinear [1]",
        "LazyBatchNorm1d {}",
        "Identity {}",
        "Softmax [1]",
        "LSTM [10, 1]",
        "MaxPool2d [99]",
    ):
        yield f"{STAGE}losses={{term: {{loss: !call:torch.nn.{call}, input: student.output}}}}"


FAST = [
    f"{STAGE}optimizer=!call:torch.optim.SparseAdam {{}}",
    f"{STAGE}optimizer=!call:torch.optim.Adam {{differentiable: true}}",
    f"{STAGE}optimizer=!call:torch.optim.AdamW {{capturable: true}}",
    f"{STAGE}optimizer=!call:torch.optim.Muon {{}}",
    f"{STAGE}scheduler={ONE_CYCLE} {{max_lr: 0.1, total_steps: !run steps, pct_start: 0.1}}",
    f"{STAGE}scheduler={{call: {ONE_CYCLE} {{max_lr: 0.1, total_steps: 1}}, interval: step}}",
    f"{STAGE}scheduler={{call: !call:torch.optim.lr_scheduler.ReduceLROnPlateau {{mode: max}}, interval: step}}",
    "data.augment=[!call:torchvision.transforms.v2.Normalize [[0.5], [0.5]]]",
    "data.augment=[!call:torchvision.transforms.v2.CutMix {num_classes: 10}]",
    "data.augment=[!call:torchvision.transforms.v2.ElasticTransform {}]",
    "data.augment=[!call:torchvision.transforms.v2.RGB {}]",
    "data.augment=[!call:torchvision.transforms.ToTensor {}]",
    "data.augment=[!call:torchvision.transforms.v2.RandomHorizontalFlip {}]",
    f"{STAGE}losses={{l: {{loss: !call:torch.nn.BCELoss {{}}, input: student.output, target: teacher.output}}}}",
    "models.student=!call:torch.nn.Sequential [!call:torch.nn.MaxPool2d [99], !call:torch.nn.LazyLinear [10]]",
]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def tried(config: Path, override: str) -> str:
    """What became of it: refused by check, with its place, or trained. Everything else is raised."""
    try:
        experiment = Experiment.load(config, overrides=[override])
        experiment.check()
        experiment.check_data()
    except KDError as error:
        return "refused" if all(problem.path and problem.message for problem in error.problems) else str(error)
    try:
        experiment.train(config.parent / "run")
    except KDError as error:  # what only the numbers of a run tell
        return "diverged" if "not finite" in str(error) else str(error)
    return "trained"


@pytest.mark.parametrize("override", FAST)
def test_what_check_lets_through_trains(config: Path, override: str) -> None:
    assert tried(config, override) in OUTCOMES


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", [optimizers, schedulers, transforms, losses])
def test_everything_that_a_config_may_name(config: Path, kind: Any, tmp_path: Path) -> None:
    seen: dict[str, int] = {}
    for number, override in enumerate(kind()):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.yaml").write_text(CONFIG)
        outcome = tried(folder / "config.yaml", override)
        assert outcome in OUTCOMES, (override, outcome)
        seen[outcome] = seen.get(outcome, 0) + 1
    print(kind.__name__, seen)
    assert seen["trained"] > 20


@pytest.mark.parametrize(
    ("override", "path", "says"),
    [
        (FAST[0], f"{STAGE}optimizer", "does not support dense gradients"),
        (FAST[5], f"{STAGE}scheduler", "ends after 1 steps, and this stage steps it 3 times"),
        (FAST[7], "data.augment", "Normalize on a tensor (1, 8, 8) of uint8 failed"),
        (FAST[13], f"{STAGE}losses.l.target", "takes probabilities for its targets"),
        (FAST[14], "models.student", "Output size is too small"),
        (
            f"{STAGE}losses={{l: {{loss: !call:torch.nn.NLLLoss {{}}, input: student.output, target: batch.target}}}}",
            f"{STAGE}losses.l.input",
            "takes logarithms of probabilities",
        ),
    ],
)
def test_what_does_not_train_has_its_place(config: Path, override: str, path: str, says: str) -> None:
    with pytest.raises(KDError) as caught:
        Experiment.load(config, overrides=[override]).check()
    [problem] = caught.value.problems
    assert (problem.path, says in problem.message) == (path, True), problem


def test_a_scheduler_that_is_too_short_is_told_before_anything_is_written(config: Path, tmp_path: Path) -> None:
    """How many steps an epoch has only the data tell: two here."""
    call = "!call:torch.optim.lr_scheduler.OneCycleLR {max_lr: 0.1, total_steps: 3}"
    overrides = [f"{STAGE}steps=null", f"{STAGE}epochs=2", f"{STAGE}scheduler={{call: {call}, interval: step}}"]
    with pytest.raises(KDError, match="ends after 3 steps, and this stage steps it 4 times"):
        Experiment.load(config, overrides=overrides).train(tmp_path / "run")
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_probabilities_are_taken(config: Path) -> None:
    overrides = [
        "adapters.s={module: !call:torch.nn.Sigmoid {}, inputs: student.output}",
        "adapters.t={module: !call:torch.nn.Sigmoid {}, inputs: teacher.output}",
        f"{STAGE}losses={{l: {{loss: !call:torch.nn.BCELoss {{}}, input: adapters.s, target: adapters.t}}}}",
    ]
    assert Experiment.load(config, overrides=overrides).check() == []
