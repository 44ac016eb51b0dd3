"""Runs experiments in forked processes that die by SIGKILL at a counted event.

A process of its own that has imported torch and the tasks once: a request is a line of JSON on standard input (see
:class:`Request`), the answer a line on standard output. An event is anything at which a kill could leave something
half done: each opening, renaming and removing of a file below the working folder (from Python's audit hooks, so that
none is forgotten), each flush to the disk, half of each appended line, each step, scoring, epoch, begin and end.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import re
import signal
import socket
import stat
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Request:
    """One run: ``verb`` is train or resume. ``kill_at`` counts events from 1, 0 for no kill, in process ``rank``."""

    verb: str
    config: str
    run: str
    log: str
    kill_at: int = 0
    rank: int = 0
    processes: int = 1
    seed: int = 0
    imports: tuple[str, ...] = ()
    seconds: float = 120.0


class Events:
    """Counts events, notes the kind of each in a file, and kills this process at one of them."""

    def __init__(self, kill_at: int, log: Path) -> None:
        self.kill_at, self.count = kill_at, 0
        self._root = str(Path.cwd())
        self._ignored = {str(log)}
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._on_disk = {path.stat().st_ino: path.stat().st_size for path in Path.cwd().rglob("*") if path.is_file()}
        """Bytes of files that no kill can take away any more: written by processes before, or flushed."""

    def tick(self, kind: str, before_kill: Callable[[], object] = lambda: None) -> None:
        """Count an event of a kind."""
        self.count += 1
        os.write(self._log, f"{kind}\n".encode())
        if self.count == self.kill_at:
            before_kill()
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Python's hook: what is about to be done to a file."""
        if event == "open":
            path, mode, flags = arguments
            if not (set(mode or "") & set("wax+") or (isinstance(flags, int) and flags & WRITES)):
                return
        elif event in CHANGES:
            path = arguments[1] if event == "os.rename" else arguments[0]
        else:
            return
        absolute = os.path.abspath(path) if isinstance(path, (str, os.PathLike)) else ""  # noqa: PTH100
        if absolute.startswith(self._root) and absolute not in self._ignored:
            self.tick(f"{event} {re.sub(r'[0-9a-f]*[0-9][0-9a-f]*', '#', absolute.removeprefix(self._root))}")

    def fsync(self, descriptor: int) -> None:
        """A flush to the disk, which a kill finds half written, or done."""
        status = os.fstat(descriptor)
        half = (min(self._on_disk.get(status.st_ino, 0), status.st_size) + status.st_size) // 2
        regular = stat.S_ISREG(status.st_mode)
        self.tick("half written", lambda: regular and os.ftruncate(descriptor, half))
        self._on_disk[status.st_ino] = status.st_size
        self.tick("written")

    def append(self, path: Path, text: str) -> None:
        """A line at the end of a file, after half of it and after all of it."""
        with path.open("a", encoding="utf-8") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            self.tick(f"half a line of {path.name}")
            file.write(text[len(text) // 2 :])
        self.tick(f"a line of {path.name}")


def install(events: Events) -> None:
    """Count the events of this process from now on."""
    from kd_core.observers import Observer
    from kd_core.train import output_store
    from kd_core.train import run as runs

    class Watcher(Observer):
        def on_start(self, event: object) -> None:
            events.tick("start")

        def after_step(self, event: object) -> None:
            events.tick("step")

        def after_epoch(self, event: object) -> None:
            events.tick("epoch")

        def after_validation(self, event: object) -> None:
            events.tick("scoring")

        def on_end(self) -> None:
            events.tick("end")

    built = runs.built_observers
    patches = ExitStack()
    replaced = {"kd_core.files.os.fsync": events.fsync}
    for module in ("runs.metrics_log", "runs.progress", "train.observers", "train.step_log"):
        replaced[f"kd_core.{module}.append"] = events.append
    write = output_store._View.write

    def write_records(view: output_store._View, rows: Any, contents: Any) -> None:
        half = len(rows) // 2
        write(view, rows[:half], contents[:half])
        events.tick("half of some records")
        write(view, rows[half:], contents[half:])
        events.tick("records")

    replaced["kd_core.train.output_store._View.write"] = write_records
    for name, function in replaced.items():
        patches.enter_context(patch(name, function))
    patches.enter_context(patch.object(runs, "built_observers", lambda named: [Watcher(), *built(named), Watcher()]))
    sys.addaudithook(events.audit)


def child(request: Request, rank: int, port: int) -> None:
    """One process of a run; it does not return."""
    import torch

    torch.set_num_threads(1)  # makes the forked pool anew, which the threads of autograd must not do at the same time
    log = os.open(f"{request.log}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        if request.processes > 1:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(request.processes))
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
        run(request, rank)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def run(request: Request, rank: int) -> None:
    """Train or resume, with events counted."""
    import numpy as np
    import torch

    from kd_core.device.runtime import leave
    from kd_core.experiment import Experiment, resume

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(request.seed)  # a fresh process knows nothing of the old one's random states
    install(Events(request.kill_at if rank == request.rank else 0, Path(f"{request.log}.events.{rank}")))
    if request.verb == "train":
        Experiment.load(request.config).train(Path(request.run))
    else:
        resume(Path(request.run))
    leave()


def serve(request: Request) -> dict[str, Any]:
    """Fork the processes of a run and wait for them: their statuses (negative: the signal) and their events."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(request.processes):
        pid = os.fork()
        if pid == 0:
            child(request, rank, port)
        children.append(pid)
    statuses = wait_for(children, request.seconds)
    logs = [Path(f"{request.log}.events.{rank}") for rank in range(request.processes)]
    events = [log.read_text().splitlines() if log.exists() else [] for log in logs]
    return {"statuses": statuses, "events": events}


def wait_for(children: list[int], seconds: float) -> list[int | None]:
    """The exit codes of processes, None for one that did not end in time and was killed here."""
    codes: dict[int, int | None] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(children):
        for pid in children:
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
        if time.monotonic() > deadline:
            for pid in set(children) - set(codes):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                codes[pid] = None
        time.sleep(0.002)
    return [codes[pid] for pid in children]


@cache
def prepare(imports: tuple[str, ...]) -> None:
    """Do once what every run would do again: imports, looking for versions, and collecting all that is imported."""
    for module in ("kd_core.experiment", "kd_core.train.run", *imports):
        importlib.import_module(module)
    from kd_core.runs import environment

    for name in ("versions", "git_state", "hardware"):
        setattr(environment, name, cache(getattr(environment, name)))
    environment.environment()
    gc.collect()
    gc.freeze()


def main() -> None:
    """Answer requests until standard input ends."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = Request(**json.loads(line))
        prepare(tuple(request.imports))
        answers.write(json.dumps(serve(request)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
