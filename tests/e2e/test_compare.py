"""A comparison: methods over seeds, by several processes, killed, failing, and gathered from runs that are there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kd_core.study import engine
from kd_core.study.study import Job
from kd_vision.cli import main

CONFIG = """
task: image_classification
data: {name: digits, limit: 120, augment: none}
models:
  student: {arch: cnn, width: 2, depth: 1}
  teacher: {arch: cnn, width: 2, depth: 1, weights: null}
stages:
  distill:
    epochs: 1
    batch_size: 32
    method: kd
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a config."""
    (tmp_path / "digits.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine, "POLL", 0.02)
    return tmp_path


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def timeless(out: Path) -> dict[str, str]:
    """The tables and the picture of a folder, without times."""
    texts = {path.name: path.read_text() for path in sorted(out.glob("table.*"))}
    texts["table.json"] = re.sub(r'"(epoch_)?seconds": .*', "", texts["table.json"]).replace(f"{out.name}/", "")
    texts["table.md"] = re.sub(r"\| [\d.]+ \| [\d.]+ (s|min|h) \|", "|", texts["table.md"])
    lines = [line.rsplit(",", 2)[0] for line in texts["table.csv"].splitlines()]
    return {**texts, "table.csv": "\n".join(lines)}


def test_methods_of_one_config_are_compared_over_seeds(folder: Path) -> None:
    done = compare("digits.yaml", "--methods", "ce,kd", "--seeds", "0,1", "--out", "runs")
    assert done.exit_code == 0, done.stderr
    header, *lines = done.stdout.splitlines()
    assert header.split("  ")[0] == "method"
    assert {line.split()[0] for line in lines} == {"ce", "kd"}
    assert "run 003 (kd, seed 1)" in done.stderr
    table = json.loads((folder / "runs" / "table.json").read_text())
    assert table["baseline"] == "ce"
    (kd,) = (row for row in table["rows"] if row["name"] == "kd")
    assert [run["seed"] for run in kd["runs"]] == [0, 1]
    for run in kd["runs"]:
        result = json.loads((folder / run["run"] / "result.json").read_text())
        assert run["final"] == result["metrics"]
        assert run["validation"] == result["best"]["metrics"]
    assert sorted(path.name for path in (folder / "runs").glob("table.*")) == [
        *("table.csv", "table.json", "table.md", "table.svg"),
    ]
    before = timeless(folder / "runs")
    assert compare("runs").stdout == done.stdout
    again = compare("digits.yaml", "--methods", "ce,kd", "--seeds", "0,1", "--out", "runs")
    assert again.stdout == done.stdout
    assert timeless(folder / "runs") == before
    told = json.loads(compare("runs", "--baseline", "kd", "--interval", "bootstrap", "--json").stdout)
    assert told["baseline"] == "kd"
    assert "fewer than 5 seeds is too narrow" in told["notes"][0]


@pytest.mark.slow
def test_the_file_of_a_comparison_names_rows(folder: Path) -> None:
    text = "config: digits.yaml\nrows:\n  warm: {}\n  cold: {set: {stages.distill.method: ce}}\nbaseline: cold\n"
    (folder / "rows.yaml").write_text(text)
    assert CliRunner().invoke(main, ["check", "rows.yaml"]).stdout.splitlines()[0] == "rows.yaml: ok"
    done = compare("rows.yaml")
    assert done.exit_code == 0, done.stderr
    assert "more than cold" in done.stdout
    assert "stages.distill.method" not in done.stdout
    assert (folder / "runs" / "rows" / "001" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits.yaml", "--methods", "ce,crdd"], "there is no method 'crdd'"),
        (["digits.yaml", "digits.yaml", "--out", "x"], "a config is named twice"),
        (["own.yaml", "--methods", "ce,kd"], "has losses of its own (ce), with which every method would train, too"),
        (["own.yaml", "digits.yaml"], "several configs need a folder"),
        (["digits.yaml", "."], "is a folder of runs, and others are configs"),
        (["digits.yaml", "--seeds", "0,x"], "is not a list of seeds"),
        (["digits.yaml", "--seeds", "1,1"], "a seed is named twice"),
        (["study.yaml", "--methods", "ce"], "--methods are for configs"),
        (["empty"], "is neither a run, nor a study, nor a folder of runs"),
        (["empty", "--set", "a=1"], "--set is for configs"),
        (["digits.yaml", "--baseline", "no", "--methods", "ce"], "there is no row 'no' to be the baseline"),
    ],
)
def test_a_wrong_comparison_is_one_error_and_runs_nothing(folder: Path, arguments: list[str], said: str) -> None:
    (folder / "own.yaml").write_text(CONFIG.replace("method: kd", "losses: {ce: {loss: cross_entropy}}"))
    (folder / "study.yaml").write_text("config: digits.yaml\nmethods: [ce, kd]\n")
    (folder / "empty").mkdir()
    done = compare(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(folder.glob("**/result.json"))


def test_a_run_that_fails_is_named_and_the_others_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = engine._train

    def failing(job: Job, *rest: object) -> object:
        if job.number == 1:
            raise ValueError("a mistake of ours")
        return train(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_train", failing)
    command = ("digits.yaml", "--methods", "ce,kd", "--seeds", "0,1", "--out", "runs")
    done = compare(*command)
    assert done.exit_code == 2
    assert "001 (ce, seed 1): ValueError: a mistake of ours" in done.stderr
    assert "Traceback" in done.stderr
    assert "Not finished: ce (seed 1)." in done.stderr
    assert len(list((folder / "runs").glob("*/result.json"))) == 3
    monkeypatch.setattr(engine, "_train", train)
    done = compare(*command)
    assert done.exit_code == 0, done.stderr
    assert not (folder / "runs" / "failed").exists()


def test_a_signal_that_comes_too_late_for_a_run_stops_the_comparison(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = engine._train

    def signalled(job: Job, *rest: object) -> object:
        result = train(job, *rest)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        return result

    monkeypatch.setattr(engine, "_train", signalled)
    done = compare("digits.yaml", "--methods", "ce,kd", "--out", "runs")
    assert done.exit_code == 143
    assert done.stderr.splitlines()[-1] == "stopped; the same command goes on"
    assert [path.parent.name for path in (folder / "runs").glob("*/result.json")] == ["000"]


def test_runs_that_are_there_make_a_table(folder: Path) -> None:
    for seed in (0, 1):
        done = compare("digits.yaml", "--methods", "ce,kd", "--seeds", str(seed), "--out", f"part_{seed}")
        assert done.exit_code == 0, done.stderr
    whole = compare("part_0", "part_1", "--out", "whole")
    assert whole.exit_code == 0, whole.stderr
    assert [row["seeds"] for row in json.loads((folder / "whole" / "table.json").read_text())["rows"]] == [[0, 1]] * 2
    single = compare("part_0/000", "part_0/001", "part_1/000")
    assert single.exit_code == 0, single.stderr
    shutil.copytree("part_0/000", "copies/one")
    shutil.copytree("part_0/000", "copies/two")
    assert "is both in copies/one and in copies/two" in compare("copies").stderr


def spawn(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kd_vision", "compare", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


COMMAND = ("digits.yaml", "--methods", "ce,kd,dist", "--seeds", "0,1", "--set", "stages.distill.epochs=4")


@pytest.fixture
def undisturbed(folder: Path) -> dict[str, str]:
    """The tables of a comparison that one process made."""
    done = compare(*COMMAND, "--out", "alone")
    assert done.exit_code == 0, done.stderr
    return timeless(folder / "alone")


@pytest.mark.slow
def test_two_processes_share_a_folder_and_one_may_be_killed(folder: Path, undisturbed: dict[str, str]) -> None:
    """The second takes what the first has not, and the run in which the first was killed."""
    out = folder / "shared"
    first = spawn(folder, *COMMAND, "--out", "shared")
    wait_for(lambda: list(out.glob("000/metrics.jsonl")))
    second = spawn(folder, *COMMAND, "--out", "shared")
    wait_for(lambda: len(list(out.glob("*/metrics.jsonl"))) > 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert timeless(out) == undisturbed


@pytest.mark.slow
def test_workers_end_with_their_parent_and_the_command_goes_on(folder: Path, undisturbed: dict[str, str]) -> None:
    out = folder / "jobs"
    parent = spawn(folder, *COMMAND, "--out", "jobs", "--jobs", "2")
    wait_for(lambda: len(list(out.glob("*/metrics.jsonl"))) > 1)
    pids = {int(path.read_text()) for path in out.glob("*/.pid")}
    assert parent.pid not in pids
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 60)
    again = spawn(folder, *COMMAND, "--out", "jobs", "--jobs", "2")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert timeless(out) == undisturbed
