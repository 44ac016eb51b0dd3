"""Runs as jobs of SLURM, by submitit: what is submitted, and what a job does when its time is nearly up."""

from __future__ import annotations

import os
import random
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_core.errors import KDError

if TYPE_CHECKING:
    from submitit import Job as Submitted
    from submitit.core.utils import DelayedSubmission

WARNING = 120
"""Seconds before its time is up at which a job is told."""
TIME = re.compile(r"(?:[0-9]+-)?[0-9]+(?::[0-9]+){0,2}")
PORTS = range(20_000, 60_000)
"""Where the processes of a job meet."""
TIME_IS_UP = {128 + int(getattr(signal, name)) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)}
"""Exit codes of a command that saved and stopped because a scheduler told it to."""


@dataclass(frozen=True)
class Resources:
    """What a job asks for, in SLURM's words. ``minutes`` is its time, ``more`` are further keys of ``sbatch``."""

    minutes: int
    nodes: int = 1
    gpus_per_node: int = 0
    processes_per_node: int = 1
    cpus_per_task: int | None = None
    partition: str | None = None
    mem: str | None = None
    setup: tuple[str, ...] = ()
    more: Mapping[str, str | bool] = field(default_factory=dict)

    def parameters(self, name: str) -> dict[str, Any]:
        """The same as submitit's executor of SLURM takes it, for a job of that name."""
        told = {
            "job_name": name,
            "time": self.minutes,
            "nodes": self.nodes,
            "ntasks_per_node": self.processes_per_node,
            "gpus_per_node": self.gpus_per_node or None,
            "cpus_per_task": self.cpus_per_task,
            "partition": self.partition,
            "mem": self.mem,
            "signal_delay_s": WARNING,
            "setup": list(self.setup) or None,
            "additional_parameters": {"requeue": True, **self.more},
        }
        return {key: value for key, value in told.items() if value is not None}


@dataclass(frozen=True)
class Job:
    """A command, as a process of a job runs it: ``python -m package arguments``. It is pickled for the job.

    Where the command saved and stopped because the job's time is nearly up, the job is put back into the queue. The
    command must go on with what it finds then (``train --resume``).
    """

    package: str
    arguments: tuple[str, ...]

    def __call__(self) -> None:
        import submitit

        environment = submitit.JobEnvironment()
        if environment.num_tasks > 1:
            os.environ.update(_torch_environment(environment))
        code = self._run()
        if code in TIME_IS_UP:
            if environment.global_rank == 0:
                environment._requeue(0)
        elif code:
            sys.exit(code)

    def _run(self) -> int:
        """The exit code of the command."""
        sys.argv = [self.package, *self.arguments]
        try:
            runpy.run_module(self.package, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts back into the queue where a signal comes before the run listens to any: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _torch_environment(environment: Any) -> dict[str, str]:
    """Where the processes of a job meet, as torch.distributed looks for it."""
    alone = environment.num_nodes == 1
    told = {
        "MASTER_ADDR": "127.0.0.1" if alone else environment.hostnames[0],
        "MASTER_PORT": random.Random(environment.job_id).choice(PORTS),
        "RANK": environment.global_rank,
        "WORLD_SIZE": environment.num_tasks,
        "LOCAL_RANK": environment.local_rank,
        "LOCAL_WORLD_SIZE": environment.num_tasks // environment.num_nodes,
    }
    return {key: str(value) for key, value in told.items()}


def script(job: Job, resources: Resources, folder: Path) -> str:
    """The text that ``sbatch`` would get; nothing is written, and no SLURM is needed."""
    submitit = _submitit()

    class Anywhere(submitit.SlurmExecutor):  # type: ignore[name-defined]
        @classmethod
        def affinity(cls) -> int:
            """Say that there is a SLURM: none is asked for anything."""
            return 2

    executor = Anywhere(folder)
    executor.update_parameters(**resources.parameters(folder.stem))
    text: str = executor._make_submission_file_text(executor._submitit_command_str, "")
    command = shlex.join(["python", "-m", job.package, *job.arguments]).replace("\n", " ")
    return text.replace("# command\n", f"# command: each process runs {command}\n")


def submit(job: Job, resources: Resources, folder: Path, *, here: bool = False) -> Submitted[Any]:
    """Put a job into SLURM's queue, or with ``here`` start it on this machine; its logs come into ``folder``.

    KDError where there is no SLURM, or it refuses the job.
    """
    submitit = _submitit()
    if here:
        executor = submitit.LocalExecutor(folder)
        tasks, gpus = resources.processes_per_node, resources.gpus_per_node
        executor.update_parameters(
            tasks_per_node=tasks, gpus_per_node=gpus, timeout_min=resources.minutes, signal_delay_s=WARNING
        )
        return executor.submit(job)
    try:
        executor = submitit.SlurmExecutor(folder)
    except RuntimeError as error:
        hint = "--dry-run prints the script of sbatch; --here runs the job on this machine"
        raise KDError("there is no SLURM here: srun is not found", hint=hint) from error
    executor.update_parameters(**resources.parameters(folder.stem))
    try:
        return executor.submit(job)
    except submitit.core.utils.FailedJobError as error:
        raise KDError(f"SLURM refuses the job: {error}") from error


def _submitit() -> Any:
    """submitit; KDError where it is not installed."""
    try:
        import submitit
        import submitit.core.utils
    except ImportError as error:
        hint = "pip install 'kd-core[slurm]'"
        raise KDError("jobs are submitted by submitit, which is not installed", hint=hint) from error
    return submitit


def minutes(text: str) -> int:
    """A time as ``sbatch`` takes it, ``MINUTES``, ``H:MM:SS``, ``D-H`` or ``D-H:MM:SS``, in minutes, rounded up.

    ValueError for anything else, and for no time at all, which SLURM takes for one without an end.
    """
    days, dash, rest = text.rpartition("-")
    if not TIME.fullmatch(text) or not text.strip("0:-") or (not dash and text.count(":") == 1):
        raise ValueError(text)
    parts: Sequence[int] = [int(part) for part in rest.split(":")]
    if not dash and len(parts) == 1:
        return parts[0]
    hours, minute, second = [*parts, 0, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + minute + (second > 0)
