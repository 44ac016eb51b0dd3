"""Stopping a run from outside: the first signal asks, the second one insists."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Stopped(Exception):
    """A run saved its place and stopped because a signal asked it to. A command exits with ``exit_code``."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """While entered, signals set :attr:`number` instead of ending the process; a second one ends it.

    These are SIGINT, SIGTERM and, where the system has them, SIGUSR1 and SIGUSR2, by which a scheduler such as SLURM
    tells that the time is nearly up.

    ::

        with StopRequest() as stop:
            for batch in batches:
                ...
                if stop:
                    save()
                    raise Stopped(f"stopped; `resume {run}` goes on", stop.number)

    Only the main thread may handle signals: entered in another one it never fires. Inside another request it begins
    as that one is, and passes on what it is asked: a request that comes too late for a run stops what has many.
    """

    SIGNALS = tuple(
        signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[signal.Signals, Any] = {}
        self._outer: StopRequest | None = None

    def __bool__(self) -> bool:
        return self.number != 0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
            outer = getattr(self._before[signal.SIGINT], "__self__", None)
            if isinstance(outer, StopRequest):
                self._outer, self.number = outer, outer.number
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.number = number
        outer = self._outer
        while outer is not None:
            outer.number, outer = number, outer._outer
        # os.write, because a signal may arrive in the middle of a print
        os.write(2, b"\nstopping after this step; a second signal stops at once\n")
