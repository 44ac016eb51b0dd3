"""Jobs of SLURM: what is asked for, what a process of a job runs, and what it does when its time is up."""

from __future__ import annotations

import builtins
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import submitit

from kd_core import submission
from kd_core.errors import KDError
from kd_core.submission import Job, Resources, minutes, script, submit

JOB = Job("kd_vision", ("train", "a.yaml", "--resume"))


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("1:30:00", 90), ("0:00:30", 1), ("1-0", 1440), ("2-01:30:00", 2970)]
)
def test_times_are_those_of_sbatch(text: str, expected: int) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["", "soon", "-1", "1:30", "1:2:3:4", "0", "0:00:00", "1-", "1_0-0"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        minutes(text)


def test_the_script_asks_for_what_is_wanted_and_writes_nothing(tmp_path: Path) -> None:
    resources = Resources(1440, 2, 8, 8, 12, "gpu", "200G", ("module load cuda",), {"account": "kd"})
    text = script(JOB, resources, tmp_path / "run.jobs")
    wanted = ("nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=12", "partition=gpu", "mem=200G")
    for line in (*wanted, "time=1440", "job-name=run", "account=kd", "signal=USR2@120", "requeue"):
        assert f"#SBATCH --{line}\n" in text
    assert "\nmodule load cuda\n" in text
    assert "each process runs python -m kd_vision train a.yaml --resume\n" in text
    assert not list(tmp_path.iterdir())


def test_the_command_in_the_script_is_one_line_of_a_comment(tmp_path: Path) -> None:
    text = script(Job("kd_vision", ("train", "a.yaml", "--set", "name=a b\nrm")), Resources(60), tmp_path / "run.jobs")
    assert "each process runs python -m kd_vision train a.yaml --set 'name=a b rm'\n" in text


@dataclass
class Environment:
    """Stands in for submitit's, of the process of that number."""

    global_rank: int = 0
    num_tasks: int = 1
    num_nodes: int = 1
    local_rank: int = 0
    job_id: str = "17"
    hostnames: tuple[str, ...] = ("first", "second")
    requeued: list[int] = field(default_factory=list)

    def _requeue(self, countdown: int) -> None:
        self.requeued.append(countdown)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Environment:
    environment = Environment()
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: environment)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(submission.os, "environ", {})
    return environment


def end_with(monkeypatch: pytest.MonkeyPatch, code: Any) -> None:
    def run(package: str, **_: Any) -> None:
        assert (package, sys.argv) == ("kd_vision", ["kd_vision", "train", "a.yaml", "--resume"])
        sys.exit(code)

    monkeypatch.setattr(submission.runpy, "run_module", run)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="Windows has no such signal")
def test_a_job_whose_time_is_up_waits_again_once(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    end_with(monkeypatch, 128 + signal.SIGUSR2)
    JOB()
    environment.global_rank = 1
    JOB()
    assert environment.requeued == [0]


@pytest.mark.parametrize(("code", "expected"), [(0, None), (None, None), (2, 2), (143, 143), ("text", 1)])
def test_other_ends_are_the_jobs_own(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, code: Any, expected: int | None
) -> None:
    end_with(monkeypatch, code)
    if expected is None:
        JOB()
    else:
        with pytest.raises(SystemExit) as end:
            JOB()
        assert end.value.code == expected
    assert not environment.requeued


@pytest.mark.parametrize(("nodes", "host"), [(1, "127.0.0.1"), (2, "first")])
def test_several_processes_know_each_other(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, nodes: int, host: str
) -> None:
    environment.num_tasks, environment.num_nodes, environment.global_rank, environment.local_rank = 8, nodes, 5, 1
    end_with(monkeypatch, 0)
    JOB()
    told = submission.os.environ
    names = ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    assert [told[name] for name in names] == [host, "5", "8", "1", str(8 // nodes)]
    assert int(told["MASTER_PORT"]) in submission.PORTS


def test_what_comes_before_a_run_listens_is_submitted_as_it_was() -> None:
    assert JOB.checkpoint().function == JOB


def test_without_slurm_a_job_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KDError, match=r"no SLURM here: srun is not found\n +hint: --dry-run prints"):
        submit(JOB, Resources(1), tmp_path)


def test_without_submitit_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def refuse(name: str, *arguments: Any) -> Any:
        if name.startswith("submitit"):
            raise ImportError(name)
        return plain(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(KDError, match=r"not installed\n +hint: pip install 'kd-core\[slurm\]'"):
        submit(JOB, Resources(1), tmp_path)
