"""Worker processes of a study on this machine, which end when the process that started them does.

A worker is ``python -m kd_core.study.worker``. It is given a request as a line on its standard input, which stays open
for as long as the parent lives, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

from kd_core.escapes import for_terminal
from kd_core.study.study import Request

COMMAND = (sys.executable, "-m", "kd_core.study.worker")
GRACE = 60.0
"""Seconds that a worker has, once its parent is gone, to save its place."""


def run_workers(request: Request, count: int) -> list[str]:
    """Work through a study in ``count`` processes; a line for each that did not end well.

    Their lines of output begin with the worker's number. An exception here (Ctrl-C) ends them all.
    """
    workers = [_start(request, environment(number, count)) for number in range(count)]
    readers = [
        threading.Thread(target=_relay, args=(worker.stderr, number), daemon=True)
        for number, worker in enumerate(workers)
    ]
    for reader in readers:
        reader.start()
    try:
        for worker in workers:
            worker.wait()
    except BaseException:
        _end(workers)
        raise
    finally:
        for worker, reader in zip(workers, readers, strict=True):
            reader.join(timeout=5)
            _close(worker)
    codes = [worker.returncode for worker in workers]
    return [f"worker {number} ended with exit code {code}" for number, code in enumerate(codes) if code]


def environment(number: int, count: int) -> dict[str, str]:
    """The environment of a worker: its share of the cores, and one of the GPUs where there are several."""
    variables = dict(os.environ)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    variables.setdefault("OMP_NUM_THREADS", str(max(cores // count, 1)))
    devices = visible_devices(variables)
    if len(devices) > 1:
        variables["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    return variables


def visible_devices(variables: Mapping[str, str]) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in variables:
        return [name for name in variables["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _start(request: Request, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables
    )
    assert worker.stdin is not None
    with suppress(BrokenPipeError):  # it has ended already: its exit code tells
        worker.stdin.write(request.as_json() + "\n")
        worker.stdin.flush()
    return worker


def _relay(lines: IO[str], number: int) -> None:
    """Print a worker's lines under its number."""
    for line in lines:
        with suppress(OSError, ValueError):
            print(f"[{number}] {for_terminal(line.rstrip())}", file=sys.stderr, flush=True)  # noqa: T201


def _close(worker: subprocess.Popen[str]) -> None:
    for stream in (worker.stdin, worker.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _end(workers: list[subprocess.Popen[str]]) -> None:
    """Ask all workers to stop, as the end of this process would, and wait until they have saved their places."""
    for worker in workers:
        assert worker.stdin is not None
        with suppress(OSError):
            worker.stdin.close()
    deadline = time.monotonic() + GRACE
    for worker in workers:
        try:
            worker.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.kill()
