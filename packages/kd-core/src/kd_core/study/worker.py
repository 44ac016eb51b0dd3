"""One of several processes of a study: see :mod:`kd_core.study.workers`, which starts it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time

from kd_core.errors import KDError
from kd_core.runs.stop import Stopped, StopRequest
from kd_core.study.engine import work
from kd_core.study.queues import queue_of
from kd_core.study.study import Request, Study
from kd_core.study.workers import GRACE

PAUSE = 0.5
"""Seconds between the parent's end and the signal to stop."""


def _follow_parent(stop: StopRequest) -> None:
    """Stop once the parent is gone: as a signal would, and after :data:`GRACE` at once."""
    sys.stdin.read()
    time.sleep(PAUSE)
    if not stop:  # the signal that ended the parent may have come here, too
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)


def main() -> int:
    """Work as one of several processes; the exit code, 0 also where runs failed, which their notes tell."""
    request = Request(**json.loads(sys.stdin.readline()))
    try:
        with StopRequest() as stop:
            threading.Thread(target=_follow_parent, args=(stop,), daemon=True).start()
            work(queue_of(Study(request)), request)
    except Stopped as stopped:
        return stopped.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except KDError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
