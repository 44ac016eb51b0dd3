"""Runs that are started again by what launched them: by torchrun, with other numbers of processes, by a scheduler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_vision.cli import main

from .plain_models import MODELS

CONFIG = """
task: image_classification
data: {name: digits, limit: 205, labelled: 61, augment: shift}
MODELS
stages:
  distill:
    epochs: 12
    batch_size: 32
    losses:
      ce: {loss: cross_entropy}
      kd: {loss: kd, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
checkpoint: {every_steps: 4}
""".replace("MODELS\n", MODELS)
TANH = "    - !call:torch.nn.Tanh {}\n"
SHARES = CONFIG.replace(TANH, f"{TANH}    - !call:torch.nn.BatchNorm1d [32]\n    - !call:torch.nn.Dropout [0.2]\n")
"""With what depends on the number of processes."""
SHORT = ["stages.distill.epochs=1", "models.teacher.width=4"]


def test_training_again_goes_on_with_the_same_run_and_refuses_another(
    config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = config(CONFIG), tmp_path / "run"
    first = Experiment.load(path, overrides=SHORT).train(out, resumes=True)
    assert Experiment.load(path, overrides=[*SHORT, "log_every=7"]).train(out, resumes=True).metrics == first.metrics
    with pytest.raises(KDError, match=r"holds a run of another config, which differs in seed\n"):
        Experiment.load(path, overrides=SHORT, seed=1).train(out, resumes=True)
    with pytest.raises(KDError, match="is not empty"):
        Experiment.load(path, overrides=SHORT).train(out)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert Experiment.load(path, overrides=SHORT).train(out).metrics == first.metrics
    with pytest.raises(KDError, match=r"needs a folder that it finds again\n +hint: name it with --out"):
        Experiment.load(path, overrides=SHORT).train()


def test_submitting_checks_the_config_and_prints_the_script(config: Callable[..., Path], tmp_path: Path) -> None:
    path, out = config(CONFIG), tmp_path / "run"
    options = ["--out", str(out), "--gpus", "4", "--time", "2:00:00", "--set", "seed=3", "--sbatch", "exclusive"]
    result = CliRunner().invoke(main, ["submit", str(path), *options, "--dry-run"])
    assert result.exit_code == 0, result.output
    for line in ("ntasks-per-node=4", "time=120", "exclusive"):
        assert f"#SBATCH --{line}\n" in result.stdout
    assert f"runs python -m kd_vision train {path} --out {out} --resume --set seed=3\n" in result.stdout
    assert not out.exists()
    wrong = CliRunner().invoke(main, ["submit", str(path), "--out", str(out), "--set", "stages.distill.epoch=1"])
    assert wrong.exit_code == 2
    assert "epochs" in wrong.output
    refused = {
        "is not a time": ["--out", str(out), "--time", "soon"],
        "is not a key of sbatch": ["--out", str(out), "--sbatch", "=5"],
        "on this machine alone": ["--out", str(out), "--here", "--nodes", "2"],
        f"the run folder {tmp_path} is not empty": ["--out", str(tmp_path)],
        "the run folder / is not empty": ["--out", "/"],
    }
    for said, wrong_options in refused.items():
        result = CliRunner().invoke(main, ["submit", str(path), *wrong_options, "--dry-run"])
        assert (result.exit_code, said in result.output) == (2, True), result.output


def launched(*arguments: str | Path, processes: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    """The command on this machine, by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["--max-restarts", str(restarts), "-m", "kd_vision", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(run: Path, process: Any, pattern: str = "step-*") -> None:
    """Until a file of that name is in the run's checkpoints."""
    deadline = time.monotonic() + 240
    while not list((run / "checkpoints").glob(pattern)):
        assert time.monotonic() < deadline, process
        time.sleep(0.02)


def children(process: int) -> Sequence[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "student" / "model.safetensors")


@pytest.mark.slow
def test_torchrun_starts_a_run_again_which_ends_as_if_nothing_had_happened(
    config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config(SHARES)
    whole = launched("train", path, "--out", tmp_path / "whole")
    _, errors = whole.communicate(timeout=400)
    assert whole.returncode == 0, errors
    run = tmp_path / "run"
    both = launched("train", path, "--out", run, restarts=2)
    wait_for(run, both)
    os.kill(children(both.pid)[-1], signal.SIGKILL)
    _, errors = both.communicate(timeout=400)
    assert both.returncode == 0, errors
    assert "resuming from" in errors
    assert (run / "student" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "student" / "model.safetensors"
    ).read_bytes()
    assert json.loads((run / "result.json").read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_processes(
    config: Callable[..., Path], tmp_path: Path, processes: tuple[int, int]
) -> None:
    path, run = config(CONFIG), tmp_path / "run"
    Experiment.load(path).train(tmp_path / "whole")
    first = launched("train", path, "--out", run, processes=processes[0])
    wait_for(run, first)
    for child in children(first.pid):
        os.kill(child, signal.SIGTERM)
    first.communicate(timeout=400)
    assert not (run / "result.json").exists()
    if processes[1] == 1:
        resume(run)
    else:
        again = launched("resume", run, processes=processes[1])
        _, errors = again.communicate(timeout=400)
        assert again.returncode == 0, errors
    one, other = weights(tmp_path / "whole"), weights(run)
    assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_started_again(config: Callable[..., Path], tmp_path: Path) -> None:
    path, run = config(SHARES), tmp_path / "run"
    options = ["--out", str(run), "--here", "--time", "20"]
    job = subprocess.Popen(
        [sys.executable, "-m", "kd_vision", "submit", str(path), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    wait_for(run, job)
    [controller] = children(job.pid)
    [task] = children(controller)
    os.kill(task, signal.SIGUSR2)
    out, errors = job.communicate(timeout=400)
    assert job.returncode == 0, errors
    assert out.splitlines()[-1] == str(run)
    Experiment.load(path).train(tmp_path / "whole")
    one, other = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert "resuming from" in (run / "log.txt").read_text()
