"""A run that was killed ends with the bytes of one that was not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import Observer, StepEvent
from kd_core.runs.checkpoint import CheckpointStore

from .conftest import student_bytes, watched

DEMANDING = """
task: image_classification
data: {name: digits, limit: 250, augment: shift}
models:
  student: !call:torch.nn.Sequential
    - !call:torch.nn.Conv2d {in_channels: 1, out_channels: 8, kernel_size: 3, padding: 1}
    - !call:torch.nn.BatchNorm2d {num_features: 8}
    - !call:torch.nn.ReLU {}
    - !call:torch.nn.Dropout {p: 0.2}
    - !call:torch.nn.Flatten {}
    - !call:torch.nn.Linear {in_features: 512, out_features: 10}
  teacher: {arch: cnn, width: 8, depth: 2, weights: null}
adapters:
  proj: {module: projector, inputs: student.1, match: teacher.layers.0, norm: true}
checkpoint: {every_steps: 3, keep_last: 2}
stages:
  hint:
    epochs: 2
    batch_size: 32
    accumulation_steps: 2
    ema: 0.9
    losses:
      hint: {loss: hint, student: adapters.proj, teacher: teacher.layers.0}
    optimizer: !call:torch.optim.AdamW {lr: 0.01}
    scheduler: {call: !call:torch.optim.lr_scheduler.CosineAnnealingLR {T_max: !run steps}, interval: step}
  distill:
    epochs: 2
    sampler: class_balanced
    losses:
      ce: {loss: cross_entropy, weight: {schedule: linear, start: 0.5, end: 1.0}}
      kd: {loss: kd, temperature: {schedule: cosine, start: 8.0, end: 2.0}}
      hint: {loss: hint, student: adapters.proj, teacher: teacher.layers.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""
STEPS = 28


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


def train_until(kill_at: int, path: Path, run: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process and drop dead right after a step, before what is due then."""

    class Killer(Observer):
        def after_step(self, event: StepEvent) -> None:
            if event.total == kill_at:
                raise Killed

    with watched(Killer()), pytest.raises(Killed):
        Experiment.load(path, overrides=overrides).train(run)


def records(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


COMPILED = "runtime={precision: bf16, channels_last: true, fused_optimizer: true, compile: [teacher, student]}"


@pytest.fixture(
    scope="module", params=["runtime=default", "runtime=fast", pytest.param(COMPILED, marks=pytest.mark.slow)]
)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    """An uninterrupted run: its config, its folder and its overrides."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "demanding.yaml"
    path.write_text(DEMANDING)
    overrides = [request.param]
    Experiment.load(path, overrides=overrides).train(folder / "run")
    return path, folder / "run", overrides


@pytest.mark.parametrize("kill_at", [1, 5, 7, 13, 14, 15, 22, STEPS])
def test_a_killed_run_ends_like_a_whole_one(
    whole: tuple[Path, Path, list[str]], kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, overrides = whole
    train_until(kill_at, path, tmp_path / "run", overrides, monkeypatch)
    torch.manual_seed(99)  # a fresh process knows nothing of the old one's random state
    random.seed(99)
    np.random.seed(99)
    resume(tmp_path / "run")
    assert student_bytes(tmp_path / "run") == student_bytes(run)
    assert records(tmp_path / "run") == records(run)


def test_a_broken_checkpoint_is_named_and_the_one_before_used(
    whole: tuple[Path, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, overrides = whole
    train_until(11, path, tmp_path / "run", overrides, monkeypatch)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    resume(tmp_path / "run")
    assert student_bytes(tmp_path / "run") == student_bytes(run)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert newest.name in log
    assert "damaged" in log


def test_a_run_whose_checkpoints_are_all_broken_says_so(
    whole: tuple[Path, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _, overrides = whole
    train_until(5, path, tmp_path / "run", overrides, monkeypatch)
    for file in (tmp_path / "run" / "checkpoints").glob("step-*"):
        file.write_bytes(b"")
    with pytest.raises(KDError, match="no checkpoint is left"):
        resume(tmp_path / "run")


def test_a_full_disk_is_one_error_and_loses_nothing(
    whole: tuple[Path, Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, run, overrides = whole
    save = CheckpointStore._write

    def full(self: CheckpointStore, kind: str, state: Any, step: int) -> Path:
        if step > 8:
            raise KDError("cannot write a checkpoint: No space left on device")
        return save(self, kind, state, step)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "_write", full)
        with pytest.raises(KDError, match="No space left"):
            Experiment.load(path, overrides=overrides).train(tmp_path / "run")
    resume(tmp_path / "run")
    assert student_bytes(tmp_path / "run") == student_bytes(run)


def test_resuming_a_finished_run_reports_it(whole: tuple[Path, Path, list[str]]) -> None:
    _, run, _ = whole
    before = student_bytes(run)
    again = resume(run)
    assert again.metrics == json.loads((run / "result.json").read_text())["metrics"]
    assert student_bytes(run) == before


def command(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """The installed command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "kd_vision", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(path: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not list(path.glob(pattern)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


MORE = ("stages.distill.epochs=20", "data.val=0")
"""A run long enough to be killed in."""


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The student that an uninterrupted run makes of MORE."""
    folder = tmp_path_factory.mktemp("longer")
    (folder / "experiment.yaml").write_text(DEMANDING)
    return student_bytes(Experiment.load(folder / "experiment.yaml", overrides=MORE).train(folder / "run").run)


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_signal_and_resume_through_the_command(
    config: Callable[..., Path], longer: bytes, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    process = command("train", config(DEMANDING), "--out", run, *(f"--set={override}" for override in MORE))
    wait_for(run / "checkpoints", "step-0000003*", process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors.decode()
    if number == signal.SIGTERM:
        assert b"resume" in errors
    assert not (run / "result.json").exists()
    resumed = command("resume", run)
    _, errors = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, errors.decode()
    assert student_bytes(run) == longer


def test_a_finished_run_holds_its_student_and_no_checkpoint(config: Callable[..., Path], tmp_path: Path) -> None:
    run, path = tmp_path / "run", config()
    Experiment.load(path, overrides=["stages.distill.epochs=1"]).train(run)
    assert not (run / "checkpoints").exists()
    (run / "result.json").unlink()
    with pytest.raises(KDError, match=r"was finished, and its result.json is gone"):
        resume(run)
    kept = Experiment.load(path, overrides=["stages.distill.epochs=2", "checkpoint.keep_finished=1"]).train(
        tmp_path / "kept"
    )
    assert kept.run is not None
    assert [file.name[:5] for file in (kept.run / "checkpoints").iterdir()] == ["step-"]
    (kept.run / "result.json").unlink()
    assert resume(kept.run).metrics == kept.metrics
