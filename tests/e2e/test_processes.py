"""Two processes against one: the same losses, weights and memory, and a run that resumes when one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kd_core import experiment
from kd_core.device.distributed import MicroBatchShard, divide, even_slices
from kd_core.experiment import Experiment

from .plain_models import MODELS

CONFIG = """
task: image_classification
data: {name: digits, limit: 205, labelled: 61, augment: shift}
MODELS
adapters:
  proj: {module: projector, inputs: student.1, out_features: 16}
stages:
  distill:
    epochs: 2
    batch_size: 32
    eval_batch_size: 7
    sampler: {name: repeated_augmentation, repeats: 2}
    losses:
      ce: {loss: cross_entropy, class_weights: [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]}
      nll: {loss: !call:torch.nn.CrossEntropyLoss {label_smoothing: 0.1}, input: student.output, target: batch.target}
      kd: {loss: kd, temperature: 4.0}
      sp: {loss: similarity_preserving, student: student.1, teacher: teacher.avgpool, weight: 100.0}
      rkd: {loss: rkd_distance, student: adapters.proj, teacher: teacher.output, weight: 0.1}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
""".replace("MODELS\n", MODELS)


def test_slices_cover_a_batch() -> None:
    for total in range(1, 20):
        for parts in range(1, 6):
            assert [row for part in even_slices(total, parts) for row in range(total)[part]] == list(range(total))
    positions, shares = divide(torch.arange(10), 3)
    assert torch.equal(torch.cat(positions), torch.arange(10))
    assert sum(share.local_scale for share in shares) == pytest.approx(1)
    assert MicroBatchShard((3, 0), 3).global_scale == 1


def launch(*arguments: str | Path, program: Sequence[str] = ("-m", "kd_vision")) -> subprocess.Popen[str]:
    """Two processes of the command on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command += [*program, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def rows(run: Path) -> list[dict[str, dict[str, float]]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


SGD = "!call:torch.optim.SGD {lr: 0.05, momentum: 0.9}"
DOT = "!call:kd_core.train.dot.DOT {lr: 0.05, task: [ce, nll]}"
SAM = "!call:kd_core.train.sam.SAM {base_optimizer: !get:torch.optim.SGD , lr: 0.05}"


@pytest.mark.parametrize("optimizer", [SGD, *(pytest.param(each, marks=pytest.mark.slow) for each in (DOT, SAM))])
def test_two_processes_train_what_one_does(config: Callable[..., Path], tmp_path: Path, optimizer: str) -> None:
    path = config(CONFIG.replace(SGD, optimizer))
    alone = Experiment.load(path).train(tmp_path / "one")
    both = launch("train", path, "--out", tmp_path / "two", "--json")
    out, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    assert "Warning" not in errors
    answers = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(answers) == 1
    assert answers[0]["metrics"]["top1"] == alone.metrics["top1"]
    assert answers[0]["metrics"]["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-5)
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for kind in {"train", "val"} & set(one):
            assert two[kind] == pytest.approx(one[kind], rel=1e-4)
    weights = [load_file(tmp_path / each / "student" / "model.safetensors") for each in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])
    classes = [json.loads((tmp_path / each / "classes.json").read_text()) for each in ("one", "two")]
    assert classes[0] == classes[1]
    assert sum(classes[0]["columns"]["samples"]) == alone.samples


FEATURES = """
task: image_classification
data: {name: digits, limit: 205, augment: shift}
MODELS
adapters:
  proj: {module: projector, inputs: student.1, out_features: 10}
stages:
  hint:
    epochs: 1
    batch_size: 32
    eval_batch_size: 1
    losses: {hint: {loss: hint, student: adapters.proj, teacher: teacher.output}}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9, weight_decay: 0.01}
  head:
    epochs: 1
    accumulation_steps: 2
    train: [student.3]
    losses: {ce: {loss: cross_entropy}}
  all:
    epochs: 1
    train: [student]
    losses: {ce: {loss: cross_entropy}}
""".replace("MODELS\n", MODELS)


@pytest.mark.slow
def test_stages_in_which_some_parameters_get_no_gradient(config: Callable[..., Path], tmp_path: Path) -> None:
    path = config(FEATURES)
    Experiment.load(path).train(tmp_path / "one")
    both = launch("train", path, "--out", tmp_path / "two")
    _, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    assert "Warning" not in errors
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for kind in {"train", "val"} & set(one):
            assert two[kind] == pytest.approx(one[kind], rel=1e-4)
    weights = [load_file(tmp_path / each / "student" / "model.safetensors") for each in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])


def test_a_killed_process_ends_the_run_which_resumes(config: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    both = launch("train", config(CONFIG), "--out", run, "--set", "stages.distill.epochs=20", "--set", "data.val=0")
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step-*")):
        assert both.poll() is None, both.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{both.pid}/task/{both.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, errors = both.communicate(timeout=120)
    assert both.returncode != 0
    assert f"another process of this run is gone\n    hint: go on with `resume {run}`" in errors
    assert "Traceback" not in errors.split("another process")[0]
    assert not (run / "result.json").exists()
    again = launch("resume", run)
    _, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "resuming from" in errors
    assert (run / "result.json").exists()


SHARDED = (str(Path(__file__).with_name("sharded.py")),)


def test_sharded_parameters_train_and_resume_as_whole_ones_do(
    config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, left = config(CONFIG), tmp_path / "threads"
    left.mkdir()
    monkeypatch.setenv("THREADS_LEFT", str(left))
    alone = Experiment.load(path, overrides=["stages.distill.ema=0.9"]).train(tmp_path / "one")
    run = tmp_path / "two"
    settings = ("--set", "stages.distill.ema=0.9", "--set", "checkpoint.keep_finished=2")
    both = launch("train", path, "--out", run, "--json", *settings, program=SHARDED)
    out, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    assert [(left / rank).read_text() for rank in "01"] == ["", ""]  # a thread may abort a process while that ends
    [answer] = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert answer["metrics"]["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-5)
    weights = [load_file(tmp_path / each / "student" / "model.safetensors") for each in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])
    whole = (run / "student" / "model.safetensors").read_bytes()
    (run / "result.json").unlink()
    newest = max((run / "checkpoints").glob("step-*"))  # go back to the end of the first epoch
    newest.unlink()
    _, errors = (again := launch("resume", run, program=SHARDED)).communicate(timeout=240)
    assert again.returncode == 0, errors
    assert "resuming from" in errors
    assert (run / "student" / "model.safetensors").read_bytes() == whole


@pytest.mark.slow
def test_sharding_two_stages_is_refused(config: Callable[..., Path], tmp_path: Path) -> None:
    both = launch("train", config(CONFIG + "  tune:\n    epochs: 1\n"), "--out", tmp_path / "run", program=SHARDED)
    _, errors = both.communicate(timeout=240)
    assert both.returncode != 0
    assert "parameters are sharded (FSDP) for a whole run: it must have one stage" in errors


@pytest.mark.slow
def test_each_process_writes_its_part_of_a_checkpoint(config: Callable[..., Path], tmp_path: Path) -> None:
    path, run = config(CONFIG), tmp_path / "two"
    settings = ["stages.distill.ema=0.9", "checkpoint.sharded=true", "checkpoint.keep_finished=2"]
    Experiment.load(path, overrides=settings).train(tmp_path / "one")
    options = [option for value in settings for option in ("--set", value)]
    both = launch("train", path, "--out", run, *options, program=SHARDED)
    _, errors = both.communicate(timeout=400)
    assert both.returncode == 0, errors
    assert "Warning" not in errors
    weights = [load_file(tmp_path / each / "student" / "model.safetensors") for each in ("one", "two")]
    assert all(torch.allclose(weights[0][key], weights[1][key], atol=1e-6) for key in weights[0])
    whole = (run / "student" / "model.safetensors").read_bytes()
    assert [len(list(folder.glob("*.distcp"))) for folder in (run / "checkpoints").glob("*.shards")] == [2, 2]
    (run / "result.json").unlink()
    max((run / "checkpoints").glob("step-*.pt")).unlink()  # go back to the end of the first epoch
    shutil.copytree(run, tmp_path / "alone")
    _, errors = (again := launch("resume", run, program=SHARDED)).communicate(timeout=400)
    assert again.returncode == 0, errors
    assert "resuming from" in errors
    assert (run / "student" / "model.safetensors").read_bytes() == whole
    experiment.resume(tmp_path / "alone")
    alone = load_file(tmp_path / "alone" / "student" / "model.safetensors")
    assert all(torch.allclose(alone[key], weights[1][key], atol=1e-6) for key in alone)
