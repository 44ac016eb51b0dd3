"""Processes that read samples for a run."""

from __future__ import annotations

import os
import signal
import sys

WORKERS = 8
"""At most so many processes read samples unless the config says otherwise."""
LINGER = 20
"""Seconds a reading process goes on after SIGTERM, which a whole process group may get while the run still saves."""


def start_worker(worker: int) -> None:
    """What such a process does first, as the ``worker_init_fn`` of a data loader."""
    if "PIL" in sys.modules:
        from kd_core.data.images import refuse_programs

        refuse_programs()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the run, which ends its workers
    if sys.platform != "win32":  # which has no SIGALRM, and ends a process without asking it
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # a scheduler's, which are for the run, too
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(LINGER))


def available_cores() -> int:
    """Cores this process may use, at most :data:`WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(WORKERS, cores)
