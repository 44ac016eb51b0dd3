"""Work through a study: each process takes a run that nobody holds, until none is left."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from kd_core import experiment
from kd_core.device.distributed import run_on_rank_zero
from kd_core.errors import KDError, reason
from kd_core.files import write_text
from kd_core.observers import Observer
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.runs.stop import Stopped, StopRequest
from kd_core.study.figures import Figures, figures_of
from kd_core.study.study import FAILED, Job, Request, load
from kd_core.train.run import Result

POLL = 0.5
"""Seconds between two looks at the runs that other processes hold."""


class Failures:
    """The messages of failed runs, a file each, which all processes of a study read."""

    def __init__(self, out: Path) -> None:
        self.folder = out / FAILED

    def path(self, job: Job) -> Path:
        """Where the message of a run stands."""
        return self.folder / f"{job.number:03d}.txt"

    def note(self, job: Job, message: str) -> None:
        """Keep why a run failed."""
        self.folder.mkdir(exist_ok=True)
        write_text(self.path(job), f"{job.name}: {message}\n")

    def messages(self) -> list[str]:
        """Why runs failed, in the order of their numbers."""
        return [path.read_text(encoding="utf-8").strip() for path in sorted(self.folder.glob("*.txt"))]

    def forget(self) -> None:
        """Let all runs be tried again."""
        for path in self.folder.glob("*.txt"):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()


class Queue:
    """The runs of a study in their order: what gives a process its next run, and is told how that ended."""

    def __init__(self, out: Path, jobs: Sequence[Job], reporter: Reporter) -> None:
        self.out, self.reporter = out, reporter
        self.failures = Failures(out)
        self.claimed: RunFolder | None = None
        """The folder of the run that was taken, which this process holds."""
        self.stop = StopRequest()
        """Asked by signals; after it no run is taken."""
        self.jobs = list(jobs)
        self._left = {job.number: job for job in jobs}

    def take(self) -> Job | None:
        """A run that is neither finished nor failed and that nobody holds; those of others are waited for.

        None once all have ended, or it is to stop.
        """
        told = False
        while not self.stop:
            for job in list(self._left.values()):
                if self._ended(job):
                    del self._left[job.number]
                elif self.claim(job):
                    return self._left.pop(job.number)
            if not self._left:
                return None
            if not told:
                names = ", ".join(job.name for job in self._left.values())
                self.reporter.info(f"waiting for runs that other processes train: {names}")
                told = True
            time.sleep(POLL)
        return None

    def _ended(self, job: Job) -> bool:
        return RunFolder(job.folder).finished or self.failures.path(job).exists()

    def claim(self, job: Job) -> bool:
        """Whether this process now holds the run, and it is still to be done."""
        self.claimed = RunFolder.claim(job.folder)
        if self.claimed is not None and self._ended(job):  # which another process did since we looked
            self.release()
        return self.claimed is not None

    def release(self) -> None:
        """Let others take the run that was taken."""
        if self.claimed is not None and self.claimed.locked:
            self.claimed.release()
        self.claimed = None

    def begins(self, job: Job) -> None:
        """Say which run is trained now."""
        self.reporter.info(f"run {job.name}")

    def observers(self, job: Job) -> list[Observer]:
        """What else watches a run."""
        return []

    def finished(self, job: Job, result: Result) -> None:
        """A run has ended well."""

    def failed(self, job: Job, error: Exception) -> None:
        """A run has failed: say so, and keep it for the summary."""
        text = str(error) if isinstance(error, KDError) else "".join(traceback.format_exception(error))
        self.reporter.info(f"run {job.name} failed: {text.rstrip()}")
        self.failures.note(job, str(error) if isinstance(error, KDError) else reason(error))

    def figures(self) -> list[Figures]:
        """The figures of all runs, in the order of the file."""
        return [figures_of(job.point.columns, job.point.seed, job.folder) for job in self.jobs]


def work(queue: Queue, request: Request) -> None:
    """Train the runs that a queue gives, one after another; one that fails is noted, and the others go on.

    Stopped where a signal asks for it, in a run or between two.
    """
    with StopRequest() as queue.stop:
        while (job := run_on_rank_zero(queue.take)) is not None:
            run_on_rank_zero(partial(queue.begins, job))
            try:
                result = _train(job, queue, request)
                run_on_rank_zero(partial(queue.finished, job, result))
            except Stopped:
                raise
            except Exception as error:
                run_on_rank_zero(partial(queue.failed, job, error))
            finally:
                queue.release()
        if queue.stop:
            raise Stopped("stopped; the same command goes on", queue.stop.number)


def _train(job: Job, queue: Queue, request: Request) -> Result:
    """Begin a run, or go on with it."""
    folder = queue.claimed or job.folder
    begun = run_on_rank_zero((job.folder / "config.yaml").exists)
    watching = queue.observers(job)
    if begun:
        return experiment.resume(folder, trust=request.trust, command=request.command, observers=watching)
    return load(job.point, request).train(folder, command=request.command, observers=watching)
