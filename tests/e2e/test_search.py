"""A sampler's trials: drawn, pruned, interrupted and taken up again, shared by processes through a storage."""

from __future__ import annotations

import builtins
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from click.testing import CliRunner, Result

from kd_core.errors import KDError
from kd_core.study import engine, search
from kd_core.study.seeded import optuna_module
from kd_core.study.spec import DistributionSpec
from kd_core.study.study import Job
from kd_vision.cli import main

CONFIG = """
task: image_classification
data: {name: digits, limit: 120, augment: none}
models:
  student: {arch: cnn, width: 2, depth: 1}
stages:
  train:
    epochs: 2
    batch_size: 32
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""
SEARCH = """
config: digits.yaml
search_space:
  stages.train.optimizer.lr: {low: 1.0e-3, high: 0.3, log: true}
  stages.train.batch_size: {choices: [16, 32]}
sampler: random
trials: 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a config."""
    (tmp_path / "digits.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "POLL", 0.02)
    return tmp_path


def sweep(text: str = SEARCH, *options: str, out: str = "runs") -> Result:
    Path("search.yaml").write_text(text)
    return CliRunner().invoke(main, ["sweep", "search.yaml", "--out", out, *options])


def rows(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return found


def test_a_sampler_draws_values_and_the_best_run_stands_first(folder: Path) -> None:
    found = rows(sweep(SEARCH, "--json"))
    assert sorted(Path(row["run"]).name for row in found) == ["000", "001", "002"]
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    for row in found:
        assert 1e-3 <= row["values"]["stages.train.optimizer.lr"] <= 0.3
        text = (folder / row["run"] / "config.yaml").read_text()
        assert f"lr: {row['values']['stages.train.optimizer.lr']}" in text
        assert f"batch_size: {row['values']['stages.train.batch_size']}" in text
    assert len({row["values"]["stages.train.optimizer.lr"] for row in found}) == 3
    compared = json.loads(CliRunner().invoke(main, ["compare", "runs", "--json"]).stdout)["rows"]
    assert [row["validation"]["mean"] for row in compared] == [row["score"] for row in found]
    assert list(compared[0]["cells"]) == ["batch_size", "lr"]
    more = rows(sweep(SEARCH.replace("trials: 3", "trials: 4"), "--json"))
    assert [row for row in more if Path(row["run"]).name != "003"] == found
    assert sorted(Path(row["run"]).name for row in more)[-1] == "003"


@pytest.mark.slow
def test_an_interrupted_trial_is_taken_up_again_and_the_result_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = rows(sweep(SEARCH, "--json", out="alone"))
    report = search.TrialScores._report

    def interrupting(self: search.TrialScores, event: Any) -> bool:
        told = report(self, event)
        if self.trial is not None and self.trial.number == 1:
            raise KeyboardInterrupt
        return told

    monkeypatch.setattr(search.TrialScores, "_report", interrupting)
    assert sweep().exit_code == 130
    monkeypatch.setattr(search.TrialScores, "_report", report)
    assert not (folder / "runs" / "001" / "result.json").exists()
    found = rows(sweep(SEARCH, "--json"))
    assert json.dumps(found).replace("runs/", "") == json.dumps(undisturbed).replace("alone/", "")


def test_what_a_killed_process_had_not_told_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = search.TrialQueue.finished

    def killed(self: search.TrialQueue, job: Job, result: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(search.TrialQueue, "finished", killed)
    assert sweep().exit_code == 130
    monkeypatch.setattr(search.TrialQueue, "finished", finished)
    assert [row["state"] for row in rows(sweep(SEARCH, "--json"))] == ["finished"] * 3


def test_a_pruner_ends_poor_trials_with_the_score_of_each_epoch(folder: Path) -> None:
    """One that prunes whatever is below 101 % after the second report."""
    text = SEARCH + "pruner: !call:optuna.pruners.ThresholdPruner {lower: 101.0, n_warmup_steps: 1}\n"
    done = sweep(text.replace("epochs: 2", "epochs: 3"))
    assert done.exit_code == 0, done.stderr
    assert "pruned after epoch 1" in done.stderr or "pruned after epoch 2" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["pruned"] * 3


def test_a_trial_that_fails_is_told_and_the_others_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = engine._train

    def failing(job: Job, *rest: object) -> object:
        if job.number == 1:
            raise KDError("wrong")
        return train(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_train", failing)
    done = sweep()
    assert done.exit_code == 2
    assert "001 (" in done.stderr
    assert "seed 0): wrong" in done.stderr
    assert sum(line.startswith("failed") for line in done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("trials: 3", "", "missing required key 'trials', which a sampler needs"),
        ("sampler: random", "", "'search_space' is for a sampler"),
        ("sampler: random", "sampler: randon", "did you mean 'random'?"),
        ("sampler: random", "sampler: !call:optuna.samplers.RandomSampler {seed: 1}", "the first one of `seeds`"),
        ("sampler: random", "sampler: !call:optuna.create_study {}", "is blocked"),
        ("sampler: random", "sampler: !call:torch.nn.ReLU {}", "must be a sampler of Optuna, not ReLU"),
        ("sampler: random", "sampler: !call:optuna.samplers.RandomSampler {sed: 1}", "seed"),
        ("low: 1.0e-3, high: 0.3", "low: 1.0, high: 0.3", "'low' is 1.0, which is above 'high', 0.3"),
        ("low: 1.0e-3, high: 0.3", "low: 0, high: 0.3", "with 'log', 'low' is greater than 0"),
        (", high: 0.3", "", "give either 'choices', or 'low' and 'high'"),
        ("choices: [16, 32]", "choices: [16, 32], log: true", "belong to 'low' and 'high'"),
        ("train.batch_size", "train.batchsize", "did you mean 'batch_size'?"),
        ("choices: [16, 32]", "choices: [16, none]", "stages.train.batch_size"),
        ("trials: 3", "trials: 3\nseeds: [0, 1]", "the trials of a sampler have one seed"),
        ("trials: 3", "trials: 3\nmethods: [ce]", "a sampler draws from 'search_space', not from"),
    ],
)
def test_a_wrong_search_is_one_error_and_runs_nothing(folder: Path, old: str, new: str, said: str) -> None:
    done = sweep(SEARCH.replace(old, new))
    assert done.exit_code == 2, done.exception
    assert said in done.stderr
    assert not list(folder.glob("runs/*/config.yaml"))
    assert said in CliRunner().invoke(main, ["check", "search.yaml"]).stderr


def test_another_search_space_is_another_study(folder: Path) -> None:
    text = SEARCH.replace("trials: 3", "trials: 1")
    assert sweep(text, "--storage", "trials.journal").exit_code == 0
    done = sweep(text.replace("high: 0.3", "high: 0.2"), "--storage", "trials.journal", out="other")
    assert done.exit_code == 2
    assert "the storage has another study 'search': search_space is different" in done.stderr
    grid = "config: digits.yaml\ngrid: [{stages.train.batch_size: [16]}]\n"
    assert "holds a study with a sampler" in sweep(grid).stderr
    assert "--storage is for studies with a sampler" in sweep(grid, "--storage", "x", out="grid").stderr


@pytest.mark.slow
def test_two_folders_share_a_storage(folder: Path) -> None:
    """As two machines do: the second begins the trials that are left, and ranks those of both."""
    first = rows(sweep(SEARCH.replace("trials: 3", "trials: 2"), "--storage", "sqlite:///trials.db", "--json"))
    found = rows(sweep(SEARCH, "--storage", "sqlite:///trials.db", "--json", out="second"))
    assert sorted(row["run"] for row in found) == ["elsewhere", "elsewhere", "second/002"]
    assert sorted(row["score"] for row in found if row["run"] == "elsewhere") == sorted(row["score"] for row in first)


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = builtins.__import__

    def absent(name: str, *rest: Any, **more: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(KDError, match=r"(?s)needs Optuna.*kd-core\[optuna\]"):
        optuna_module()


def test_values_are_drawn_as_their_distributions_say() -> None:
    trial = optuna.trial.FixedTrial({"i": 4, "f": 0.5, "s": 0.3, "c": "[1, 2]"})
    assert search.drawn(trial, "i", DistributionSpec(low=2, high=8, step=2)) == 4
    assert search.drawn(trial, "f", DistributionSpec(low=0, high=1.0)) == 0.5
    assert search.drawn(trial, "s", DistributionSpec(low=0.1, high=0.5, step=0.1)) == 0.3
    assert search.drawn(trial, "c", DistributionSpec(choices=[[1, 2], [3, 4]])) == [1, 2]
    assert trial.distributions["i"] == optuna.distributions.IntDistribution(2, 8, step=2)
    assert trial.distributions["f"] == optuna.distributions.FloatDistribution(0, 1.0)


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_is_killed(folder: Path) -> None:
    """Six trials over a database: each run once, none lost with the process that had it."""
    (folder / "search.yaml").write_text(SEARCH.replace("trials: 3", "trials: 6").replace("random", "tpe"))
    command = [sys.executable, "-m", "kd_vision", "sweep", "search.yaml", "--out", "runs", "--json"]
    command += ["--storage", "sqlite:///trials.db", "--set", "stages.train.epochs=4"]

    def spawn() -> subprocess.Popen[str]:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)

    first = spawn()
    wait_for(lambda: (folder / "runs" / "000" / "metrics.jsonl").exists())
    second = spawn()
    wait_for(lambda: len(list(folder.glob("runs/*/metrics.jsonl"))) > 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    output, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    found = json.loads(output)["rows"]
    assert sorted(Path(row["run"]).name for row in found) == [f"{number:03d}" for number in range(6)]
    assert all(row["state"] == "finished" for row in found)
    assert len({row["values"]["stages.train.optimizer.lr"] for row in found}) == 6


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
