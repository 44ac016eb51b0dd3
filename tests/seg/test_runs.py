"""Whole runs of ``kd-seg`` on generated scenes: distilled, killed and resumed, in two processes, scored again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from kd_seg.cli import main

ROOT = Path(__file__).parents[2]
CONFIG = """
task: semantic_segmentation
data: {name: scenes, limit: {train: 40, val: 9}, size: 48, crop: 48, workers: 0}
models:
  student: {arch: unet, width: 3, depth: 2}
  teacher: {arch: unet, width: 5, depth: 2, weights: null}
checkpoint: {every_steps: 2}
stages:
  distill:
    epochs: 3
    batch_size: 6
    losses:
      ce: {loss: cross_entropy}
      kd: {loss: kd, temperature: 1.0, mask: batch.mask}
      cwd: {loss: cwd, weight: 3.0, mask: batch.mask}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
    scheduler: {call: !call:torch.optim.lr_scheduler.PolynomialLR {total_iters: !run steps, power: 0.9}, interval: step}
"""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    Path("config.yaml").write_text(CONFIG)


def kd_seg(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def metrics_of(run: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((Path(run) / "result.json").read_text())["metrics"]
    return found


def student(run: str) -> bytes:
    return (Path(run) / "student" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_run_is_scored_again_as_it_ended() -> None:
    done = kd_seg("train", "config.yaml", "--out", "run")
    assert done.exit_code == 0, done.stderr
    figures = metrics_of("run")
    assert {"miou", "pixel_accuracy", "fwiou", "mean_accuracy", "iou/background", "iou/cross"} <= set(figures)
    again = kd_seg("eval", "run", "--json")
    assert json.loads(again.stdout)["metrics"] == pytest.approx(figures)
    assert json.loads(again.stdout)["samples"] == 9
    losses = [
        json.loads(line)["train"] for line in Path("run/metrics.jsonl").read_text().splitlines() if "train" in line
    ]
    assert losses[-1]["ce"] < losses[0]["ce"]


def test_a_killed_run_ends_in_the_same_bytes() -> None:
    assert kd_seg("train", "config.yaml", "--out", "whole").exit_code == 0
    command = [sys.executable, "-m", "kd_seg", "train", "config.yaml", "--out", "killed"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(list(Path("killed").glob("checkpoints/*"))) < 2 and time.monotonic() < end:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not Path("killed/result.json").exists()
    done = kd_seg("resume", "killed")
    assert done.exit_code == 0, done.stderr
    assert student("killed") == student("whole")
    assert metrics_of("killed") == metrics_of("whole")


@pytest.mark.slow
def test_two_processes_train_and_score_what_one_does() -> None:
    """A model without batch statistics, a loss over all pixels, 40 images in batches of 6, and 9 images to score."""
    flat = "models.student={call: !call:torch.nn.Conv2d {in_channels: 3, out_channels: 6, kernel_size: 5, padding: 2}}"
    options = ("--set", flat, "--set", "stages.distill.losses={kd: {loss: kd}}", "--set", "stages.distill.epochs=2")
    assert kd_seg("train", "config.yaml", "--out", "one", *options).exit_code == 0
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port}"]
    command = [*launch, "-m", "kd_seg", "train", "config.yaml", "--out", "two", *options]
    done = subprocess.run(command, env={**os.environ}, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (load_file(f"{run}/student/model.safetensors") for run in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5)
    scored = kd_seg("eval", "two", "--json")
    assert json.loads(scored.stdout)["metrics"] == metrics_of("two")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.name=scene", "there is no data set 'scene'"),
        ("data.crop=0", "at least 1"),
        ("data.scale=[2.0, 0.5]", "from the smaller factor to the larger"),
        ("models.student={call: !call:torch.nn.Flatten {}}", "segmentation takes maps"),
        ("stages.distill.losses.kd.mask=batch.masks", "'masks'"),
        ("stages.distill.losses.kd.student=student.output/aux", "'aux'"),
    ],
)
def test_a_wrong_config_is_answered_before_anything_is_read(change: str, says: str) -> None:
    done = kd_seg("train", "config.yaml", "--out", "run", "--set", change)
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("run").exists()


def test_a_single_image_and_batch_statistics_are_one_error() -> None:
    model = "models.student={arch: deeplabv3, backbone: resnet18, output_stride: 32}"
    options = (
        "--set",
        model,
        "--set",
        "stages.distill.batch_size=1",
        "--set",
        "stages.distill.losses={ce: {loss: cross_entropy}}",
    )
    done = kd_seg("train", "config.yaml", "--out", "run", *options)
    assert done.exit_code == 2
    assert "one value a channel on a batch of one sample" in done.stderr


def test_an_auxiliary_head_has_its_own_weight_and_rate() -> None:
    aux = "aux: {loss: cross_entropy, student: student.output/aux}"
    groups = "{call: !call:torch.optim.SGD {lr: 0.05}, groups: [{params: student.aux_classifier, lr: 0.5}]}"
    options = (
        "--set",
        "stages.distill.epochs=1",
        "--set",
        "data.limit.train=6",
        "--set",
        f"stages.distill.optimizer={groups}",
    )
    model = "models.student={arch: fcn, backbone: resnet18, output_stride: 32, aux_loss: true}"
    losses = f"stages.distill.losses={{ce: {{loss: cross_entropy}}, {aux}}}"
    done = kd_seg("train", "config.yaml", "--out", "run", *options, "--set", model, "--set", losses)
    assert done.exit_code == 0, done.stderr
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    train = next(row for row in rows if "train" in row)
    assert train["train"]["aux"] > 0
    assert len(train["lr"]) == 2
    low, high = sorted(train["lr"])
    assert high == pytest.approx(10 * low)
