"""A run that trains nothing, or something that nobody meant, says so: certain things are errors, others warnings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.train.doubts import check_parameters
from kd_core.train.run import Result

CONFIG = """
task: image_classification
data: {name: digits, limit: 20, val: 4, augment: none, workers: 0}
models:
  student: {arch: cnn, width: 2}
  teacher: {arch: cnn, width: 2, weights: null}
stages:
  train:
    steps: 4
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.01}
"""
STAGE = "stages.train."
PLATEAU = "!call:torch.optim.lr_scheduler.ReduceLROnPlateau {mode: max}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def trained(config: Path, *overrides: str) -> Result:
    return Experiment.load(config, overrides=overrides).train(config.parent / "run")


@pytest.mark.parametrize(
    ("overrides", "path", "says"),
    [
        (["data.val=0", f"{STAGE}early_stopping={{patience: 2}}"], f"{STAGE}early_stopping", "no validation split"),
        (["data.val=0", f"{STAGE}scheduler={PLATEAU}"], f"{STAGE}scheduler", "no validation split"),
        ([f"{STAGE}losses.ce.weight=0"], f"{STAGE}losses", "the weight of every term is 0"),
        (
            [f"{STAGE}losses.ce.student=teacher.output", f"{STAGE}train=[student]"],
            f"{STAGE}losses",
            "no term looks at what learns (student)",
        ),
    ],
)
def test_what_certainly_trains_nothing_is_refused_by_check(
    config: Path, overrides: list[str], path: str, says: str
) -> None:
    with pytest.raises(KDError) as caught:
        Experiment.load(config, overrides=overrides).check()
    [problem] = caught.value.problems
    assert (problem.path, says in problem.message) == (path, True), problem


def test_a_loss_that_is_the_same_in_every_step_is_noted(config: Path) -> None:
    result = trained(config, "data.labelled=0")
    said = "stages.train: the loss was 0 in every step: nothing was learned"
    assert said in result.warnings
    assert said in json.loads((config.parent / "run" / "result.json").read_text())["warnings"]


def test_a_learning_rate_of_0_is_noted(config: Path) -> None:
    result = trained(config, "data.limit=200", "data.val=50", f"{STAGE}optimizer.lr=0")
    assert result.warnings == ["stages.train: the learning rate is 0: nothing is learned"]


def test_a_run_that_learns_has_no_warnings(config: Path) -> None:
    assert trained(config, "data.limit=200", "data.val=50").warnings == []


def test_targets_that_do_not_add_up_to_1_are_noted(config: Path) -> None:
    loss = "{loss: !call:torch.nn.CrossEntropyLoss {}, input: student.output, target: adapters.soft}"
    result = trained(
        config,
        "data.limit=200",
        "data.val=50",
        "adapters.soft={module: !call:torch.nn.Sigmoid {}, inputs: teacher.output}",
        f"{STAGE}losses={{soft: {loss}}}",
    )
    [warning] = result.warnings
    assert "stages.train.losses.soft: the targets of CrossEntropyLoss do not add up to 1" in warning


def test_a_last_step_that_diverges_is_an_error(config: Path) -> None:
    """The loss is computed before the step, and is finite."""
    diverging = [f"{STAGE}steps=1", f"{STAGE}losses.ce.weight=1.0e+6", f"{STAGE}optimizer.lr=1.0e+38"]
    with pytest.raises(KDError, match=r"stages.train: step 0: the update left parameters that are not finite: student"):
        trained(config, *diverging)
    assert not (config.parent / "run" / "student").exists()


def test_parameters_that_are_not_finite_are_named() -> None:
    named = {"a": torch.ones(3), "b": torch.tensor([1.0, float("nan")]), "c": torch.tensor(float("inf"))}
    check_parameters({"a": named["a"]}, "train", 7)
    with pytest.raises(KDError, match="step 7: the update left parameters that are not finite: b, c"):
        check_parameters(named, "train", 7)


def test_cross_entropy_of_one_class_is_refused() -> None:
    from kd_core.losses.logits import cross_entropy

    with pytest.raises(KDError, match=r"cross_entropy of student \(4, 1\), one class, is always 0"):
        cross_entropy(torch.randn(4, 1), torch.rand(4, 1))
