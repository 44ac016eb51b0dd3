"""What goes wrong in the middle of a run is one error that says what to do."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import StepEvent
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.train.observers import Observers

CONFIG = """
task: image_classification
data: {name: digits, limit: 133, val: 40, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 2}
  teacher: {arch: cnn, width: 8, depth: 2, weights: null}
adapters:
  proj: {module: projector, inputs: student.output, match: teacher.output, norm: true}
stages:
  distill:
    epochs: 1
    batch_size: 31
    losses:
      hint: {loss: hint, student: adapters.proj, teacher: teacher.output}
    optimizer: !call:torch.optim.SGD {lr: 0.01}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def test_a_last_batch_of_one_sample_is_an_error_of_its_stage(config: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(config, overrides=["stages.distill.batch_size=92"])
    with pytest.raises(KDError, match=r"stages.distill: batch norm .* one value .* a batch of one sample\b") as caught:
        experiment.train(tmp_path / "run")
    assert "drop_last" in str(caught.value.problems[0].hint)
    assert not (tmp_path / "run" / "manifest.json").exists(), "it is told before anything is trained"


class GreyImages(Dataset[tuple[Tensor, int]]):
    """Images of one channel, ``size`` pixels high and wide."""

    def __init__(self, size: int = 8) -> None:
        self.size, self.targets = size, [number % 2 for number in range(8)]

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.rand(1, self.size, self.size), self.targets[index]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("{}", "{}", r"the forward pass on training samples of shape \(2, 1, 8, 8\) failed"),
        ("{size: 4}", "{}", r"the forward pass on samples of shape \(4, 1, 8, 8\) failed"),
    ],
)
def test_images_that_a_model_does_not_take_are_one_error(
    config: Path, tmp_path: Path, train: str, test: str, message: str
) -> None:
    """Of a data set of somebody's own nothing is known before it is read."""
    call = f"!call:{__name__}.GreyImages"
    overrides = [
        f"data={{dataset: {{train: {call} {train}, test: {call} {test}}}, val: 0, augment: none, workers: 0}}",
        "models={student: !call:torch.nn.Sequential [!call:torch.nn.Flatten {}, !call:torch.nn.Linear [16, 2]]}",
        "adapters={}",
        "stages.distill.losses={ce: {loss: cross_entropy}}",
        "stages.distill.batch_size=4",
    ]
    experiment = Experiment.load(config, overrides=overrides, trust=[__name__])
    with pytest.raises(KDError, match=message) as caught:
        experiment.train(tmp_path / "run")
    assert caught.value.problems[0].path == "models.student"


class Several(nn.Module):
    """A classifier that gives its logits and something else, as ``form`` says."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.layer, self.form = nn.Linear(64, 10), form

    def forward(self, images: Tensor) -> Any:
        logits = self.layer(images.flatten(1))
        return (logits, 2 * logits) if self.form == "tuple" else {"aux": images, "logits": logits}


@pytest.mark.parametrize(
    ("form", "there"), [("tuple", "student.output/0, student.output/1"), ("mapping", "student.output/aux, ")]
)
def test_a_loss_of_one_tensor_is_not_added_up_over_what_a_model_returns(
    config: Path, tmp_path: Path, form: str, there: str
) -> None:
    overrides = [
        f"models={{student: !call:{__name__}.Several [{form}]}}",
        "adapters={}",
        "stages.distill.losses={ce: {loss: cross_entropy}}",
    ]
    with pytest.raises(KDError, match=r"student.output carries .*, of which the loss takes one tensor") as caught:
        Experiment.load(config, overrides=overrides, trust=[__name__]).train(tmp_path / "run")
    (problem,) = caught.value.problems
    assert problem.path == "stages.distill.losses.ce.student"
    assert there in str(problem.hint)


@pytest.mark.parametrize(
    ("key", "message"),
    [("meter", "it has no 'meter'"), ("progress", "it has no 'progress'"), ("adapters", "it has no 'adapters'")],
)
def test_a_checkpoint_without_a_part_is_an_error(config: Path, tmp_path: Path, key: str, message: str) -> None:
    store = interrupted(config, tmp_path / "run")
    found = store.latest(print)
    assert found is not None
    state, path = found
    del state[key]
    path.unlink()
    store.save(state, 2)
    with pytest.raises(KDError, match=message) as caught:
        resume(tmp_path / "run")
    assert "does not fit this run" in str(caught.value)


def test_a_checkpoint_with_an_unknown_field_of_progress_is_an_error(config: Path, tmp_path: Path) -> None:
    store = interrupted(config, tmp_path / "run")
    found = store.latest(print)
    assert found is not None
    state, path = found
    path.unlink()
    store.save({**state, "progress": {**state["progress"], "waiting": 1}}, 2)
    with pytest.raises(KDError, match=r"does not fit this run, .*waiting"):
        resume(tmp_path / "run")


def test_a_checkpoint_of_another_model_is_an_error(config: Path, tmp_path: Path) -> None:
    interrupted(config, tmp_path / "run")
    written = tmp_path / "run" / "config.yaml"
    written.write_text(written.read_text().replace("width: 4", "width: 5"))
    with pytest.raises(KDError, match=r"models\.student\.width: 4 became 5"):
        resume(tmp_path / "run")
    with pytest.raises(
        KDError, match=r"does not fit this run, [^\n]*: RuntimeError: [^\n]*\n\s*size mismatch for layers"
    ):
        resume(tmp_path / "run", accept_changes=True)


def test_an_optimisers_state_that_does_not_fit_is_told_when_it_steps(config: Path, tmp_path: Path) -> None:
    store = interrupted(config, tmp_path / "run")
    found = store.latest(print)
    assert found is not None
    state, path = found
    first = state["optimizer"]["param_groups"][0]["params"][0]
    state["optimizer"]["state"][first] = {"momentum_buffer": torch.zeros(3, 2, 1)}
    state["optimizer"]["param_groups"][0]["momentum"] = 0.9
    path.unlink()
    store.save(state, 2)
    with pytest.raises(KDError, match=r"a step of SGD failed|does not fit this run"):
        resume(tmp_path / "run")


def interrupted(config: Path, run: Path) -> CheckpointStore:
    """The checkpoints of a run that ended after its second step."""

    def stop(self: Observers, event: StepEvent) -> None:
        if event.total == 3:
            raise KeyboardInterrupt

    experiment = Experiment.load(config, overrides=["checkpoint.every_steps=1"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Observers, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            experiment.train(run)
    return CheckpointStore(run / "checkpoints")


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="torch is told of dead workers by SIGCHLD")
def test_a_worker_killed_during_a_step_is_one_error(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(60):
        folder = tmp_path / "images" / "train" / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")

    def kill(self: Observers, event: StepEvent) -> None:
        os.kill(active_children()[0].pid or 0, signal.SIGKILL)
        time.sleep(5)  # which the signal ends

    monkeypatch.setattr(Observers, "after_step", kill)
    data = f"data={{name: image_folder, root: {tmp_path / 'images'}, size: 8, val: 20, workers: 1, augment: none}}"
    overrides = [data, "models={student: {arch: cnn, in_channels: 3, width: 4, num_classes: 2}}", "adapters={}"]
    losses = "stages.distill.losses={ce: {loss: cross_entropy}}"
    told = r"(?s)a process that reads samples was killed.*fewer data\.workers.*; go on with `resume "
    with pytest.raises(KDError, match=told):
        Experiment.load(config, overrides=[*overrides, losses, "stages.distill.batch_size=4"]).train(tmp_path / "run")
    assert active_children() == []
