"""What changed between a stop and a resume is named, and taken only where the user says so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import Observer, StepEvent
from kd_vision.cli import main

from .conftest import student_bytes, watched

FOLDERS = """
task: image_classification
data: {name: image_folder, root: ROOT/data, size: 8, workers: 0, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 1, in_channels: 3}
  teacher: {arch: cnn, width: 4, depth: 1, in_channels: 3, weights: ROOT/teacher.pt}
stages:
  distill:
    epochs: 3
    batch_size: 8
    losses: {ce: {loss: cross_entropy}, kd: {loss: kd}}
    optimizer: !call:torch.optim.SGD {lr: 0.05}
"""


def teacher(seed: int) -> dict[str, torch.Tensor]:
    from kd_core.models.registry import MODELS

    torch.manual_seed(seed)
    model: nn.Module = MODELS.get("cnn")(width=4, depth=1, in_channels=3, num_classes=2)
    return model.state_dict()


def image(path: Path, grey: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (grey, grey, grey)).save(path)


class Stop(Exception):
    """Ends a run after a step."""


class Stopper(Observer):
    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, event: StepEvent) -> None:
        if event.total == self.step:
            raise Stop


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A run that was stopped after its first epoch."""
    for part in ("train", "val", "test"):
        for row in range(12):
            image(
                tmp_path / "data" / part / ("dark" if row % 2 else "light") / f"{row}.png", 200 - 180 * (row % 2) + row
            )
    torch.save(teacher(1), tmp_path / "teacher.pt")
    config = tmp_path / "config.yaml"
    config.write_text(FOLDERS.replace("ROOT", str(tmp_path)))
    with watched(Stopper(4)), pytest.raises(Stop):
        Experiment.load(config).train(tmp_path / "run")
    return tmp_path / "run"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def removed(root: Path) -> None:
    (root / "data" / "train" / "dark" / "1.png").unlink()


def flipped(root: Path) -> None:
    shutil.move(root / "data/train/dark/1.png", root / "data/train/light/1.png")


def repainted(root: Path) -> None:
    path = root / "data" / "train" / "dark" / "1.png"
    size = path.stat().st_size
    image(path, 30)
    assert path.stat().st_size == size, "only the content tells"


def retaught(root: Path) -> None:
    torch.save(teacher(2), root / "teacher.pt")


def cut(root: Path) -> None:
    path = root / "run" / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-40])


def rewritten(root: Path) -> None:
    edit(root / "run" / "metrics.jsonl", '"epoch": 1', '"epoch": 7')


def longer(root: Path) -> None:
    edit(root / "run" / "config.yaml", "epochs: 3", "epochs: 4")


def without_manifest(root: Path) -> None:
    (root / "run" / "manifest.json").unlink()


def with_half_a_manifest(root: Path) -> None:
    path = root / "run" / "manifest.json"
    path.write_text(path.read_text()[:100])


CHANGES = [
    (removed, "data: train: 12 samples became 11"),
    (flipped, "data: train: the same number of samples, with other contents or labels"),
    (repainted, "data: train: the same number of samples, with other contents or labels"),
    (retaught, "models: teacher: the weights are others"),
    (longer, "config.yaml: stages.distill.epochs: 3 became 4"),
    (cut, "metrics.jsonl was cut or edited"),
    (rewritten, "metrics.jsonl was cut or edited"),
    (without_manifest, "manifest.json is gone"),
    (with_half_a_manifest, "manifest.json is damaged"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_a_change_is_an_error_unless_it_is_accepted(stopped: Path, change: Callable[[Path], None], says: str) -> None:
    change(stopped.parent)
    before = {path.name: path.read_bytes() for path in (stopped / "checkpoints").iterdir()}
    with pytest.raises(KDError) as caught:
        resume(stopped)
    assert says in str(caught.value)
    assert f"resume {stopped} --accept-changes" in str(caught.value)
    assert {path.name: path.read_bytes() for path in (stopped / "checkpoints").iterdir()} == before
    done = CliRunner().invoke(main, ["resume", str(stopped), "--accept-changes"])
    assert done.exit_code == 0, done.output
    manifest = json.loads((stopped / "manifest.json").read_text())
    (session,) = manifest.get("resumed", [manifest])
    assert any(says in line for line in session["accepted"]) or "manifest" in says
    assert says in (stopped / "log.txt").read_text()


def test_accepted_changes_are_what_later_resumes_compare_with(stopped: Path) -> None:
    removed(stopped.parent)
    with watched(Stopper(5)), pytest.raises(Stop):
        resume(stopped, accept_changes=True)
    with watched(Stopper(5)), pytest.raises(Stop):
        resume(stopped)
    retaught(stopped.parent)
    with pytest.raises(KDError, match="the weights are others") as caught:
        resume(stopped)
    assert "samples" not in str(caught.value)


KEEP = ("--set", "checkpoint.keep_finished=1")


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are UTF-8 elsewhere")
def test_names_of_files_may_be_any_bytes(stopped: Path, tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        (tmp_path / "data" / part / "dark").rename(tmp_path / "data" / part / "dark\udcff")
    run = tmp_path / "run\udcfe"
    done = CliRunner().invoke(main, ["train", str(tmp_path / "config.yaml"), "--out", str(run), *KEEP])
    assert done.exit_code == 0, done.stderr
    (run / "result.json").unlink()
    for verb in ("resume", "eval"):
        done = CliRunner().invoke(main, [verb, str(run)])
        assert done.exit_code == 0, done.stderr


def test_a_checkpoint_of_another_seed_is_noticed(stopped: Path) -> None:
    other = stopped.with_name("other")
    with watched(Stopper(4)), pytest.raises(Stop):
        Experiment.load(stopped.parent / "config.yaml", seed=1).train(other)
    shutil.rmtree(stopped / "checkpoints")
    shutil.copytree(other / "checkpoints", stopped / "checkpoints")
    with pytest.raises(KDError, match=r"was written by another run, config or seed"):
        resume(stopped)


def test_what_changes_nothing_is_no_change(stopped: Path, tmp_path: Path) -> None:
    """A reformatted config, other keys without effect, touched files, another folder."""
    config = stopped / "config.yaml"
    edit(config, "workers: 0", "workers: 1")
    config.write_text(f"# a remark\n{config.read_text()}log_every: 7\ncheckpoint: {{every_steps: 2}}\n")
    for path in (tmp_path / "data").rglob("*.png"):
        path.touch()
    moved = stopped.rename(tmp_path / "moved")
    resume(moved)
    whole = tmp_path / "whole"
    Experiment.load(tmp_path / "config.yaml").train(whole)
    assert student_bytes(moved) == student_bytes(whole)


def test_other_versions_and_hardware_are_a_warning(stopped: Path) -> None:
    manifest: dict[str, Any] = json.loads((stopped / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    manifest["hardware"]["threads"] = 64
    (stopped / "manifest.json").write_text(json.dumps(manifest))
    resume(stopped)
    log = (stopped / "log.txt").read_text()
    assert "warning: the run goes on elsewhere, and its last digits may differ: torch 1.0 became" in log
    assert "threads 64 became 1" in log
