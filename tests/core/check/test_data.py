"""What a check says of a config's purpose and of its data: it passes what train or eval starts with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from kd_core.experiment import Experiment
from kd_vision.cli import main

CONFIG = """
task: image_classification
data: {name: digits, limit: {train: 40}, val: 0, augment: none, workers: 0}
models:
  student: {arch: cnn, width: 2}
stages:
  train:
    epochs: 3
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.01}
"""
NOTHING = "there is nothing to train: write at least one stage"
ONE_CYCLE = "{call: !call:torch.optim.lr_scheduler.OneCycleLR {max_lr: 0.1, total_steps: %s}, interval: step}"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


def run(verb: str, config: Path, *overrides: str, options: tuple[str, ...] = ()) -> Result:
    sets = [word for override in overrides for word in ("--set", override)]
    return CliRunner().invoke(main, [verb, *options, str(config), *sets])


def test_a_config_that_neither_trains_nor_evaluates_is_refused(config: Path) -> None:
    config.write_text(CONFIG[: CONFIG.index("stages:")])
    for verb in ("check", "train"):
        done = run(verb, config)
        assert (done.exit_code, NOTHING in done.stderr) == (2, True), done.output
    assert "a student with weights can be evaluated" in run("check", config).stderr


def test_a_config_for_evaluation_alone_is_told_from_one_that_trains(config: Path) -> None:
    config.write_text(CONFIG[: CONFIG.index("stages:")])
    weights = "models.student.weights=student.pt"
    done = run("check", config, weights)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{config}: ok to evaluate; without stages there is nothing to train\n")
    report = json.loads(run("check", config, weights, options=("--json",)).stdout)["files"][str(config)]
    assert report["trains"] is False
    assert run("train", config, weights).exit_code == 2


@pytest.mark.parametrize(
    ("steps", "says"), [("14", "OneCycleLR ends after 14 steps"), ("15", None), ("!run steps", None)]
)
def test_a_schedule_is_compared_with_the_steps_that_the_data_make(config: Path, steps: str, says: str | None) -> None:
    done = run("check", config, f"stages.train.scheduler={ONE_CYCLE % steps}", options=("--strict",))
    assert done.exit_code == (0 if says is None else 2), done.output
    assert (says or "") in done.stderr
    if says:
        assert f"stages.train.scheduler: {says}, and this stage steps it 15 times" in done.stderr
        assert says in run("train", config, f"stages.train.scheduler={ONE_CYCLE % steps}").stderr


def test_an_epoch_without_a_step_is_told_by_the_data(config: Path) -> None:
    done = run("check", config, "stages.train.batch_size=64", "stages.train.drop_last=true")
    assert "40 training samples do not fill a batch of 64" in done.stderr


@pytest.mark.parametrize(("steps", "unverified"), [("14", 1), ("!run steps", 0)])
def test_where_the_data_are_elsewhere_a_schedule_is_unverified(config: Path, steps: str, unverified: int) -> None:
    overrides = ("data={name: cifar10, root: nowhere, download: false}", "models.student.in_channels=3")
    done = run("check", config, *overrides, f"stages.train.scheduler={ONE_CYCLE % steps}")
    told = (
        "unverified: stages.train.scheduler: only the data tell whether the scheduler lasts for the steps of the stage"
    )
    assert (done.exit_code, done.stdout.count(told)) == (0, unverified), done.output


def test_a_scheduler_by_epochs_needs_no_data(config: Path) -> None:
    scheduler = ONE_CYCLE.replace("step}", "epoch}") % 3
    overrides = ("data={name: cifar10, root: nowhere, download: false}", "models.student.in_channels=3")
    assert "unverified" not in run("check", config, *overrides, f"stages.train.scheduler={scheduler}").stdout


def test_a_sweep_compares_each_run_with_the_data(config: Path) -> None:
    sweep = config.with_name("sweep.yaml")
    sweep.write_text("config: config.yaml\ngrid: [{stages.train.batch_size: [8, 4]}]\n")
    done = run("check", sweep, f"stages.train.scheduler={ONE_CYCLE % 15}")
    assert "with stages.train.batch_size=4, seed=0:" in done.stderr
    assert "OneCycleLR ends after 15 steps, and this stage steps it 30 times" in done.stderr


def test_the_classes_that_are_counted_in_the_data_are_those_of_models(tmp_path: Path, config: Path) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8), (200 * number, 100, 100)).save(folder / "0.png")
    data = f"data={{name: image_folder, root: {tmp_path / 'images'}, size: 8, augment: none, workers: 0}}"
    teacher = "models.teacher={arch: cnn, width: 2, in_channels: 3, num_classes: %s, weights: null}"
    kd = ("stages.train.losses.kd={loss: kd}", "models.student.in_channels=3")
    assert run("check", config, data, teacher % 2, *kd).exit_code == 0
    done = run("check", config, data, teacher % 9, *kd)
    assert "student (2, 2) and teacher (2, 9) must have the same shape" in done.stderr
    elsewhere = data.replace(str(tmp_path / "images"), str(tmp_path / "nowhere"))
    assert run("check", config, elsewhere, teacher % 9, *kd).exit_code == 0


def test_reading_all_data_compares_the_stages_too(config: Path) -> None:
    experiment = Experiment.load(config)
    lines, unverified = experiment.check_data(whole=True)
    assert (lines[1].startswith("train: 40 of 1,438 training samples"), unverified) == (True, [])
