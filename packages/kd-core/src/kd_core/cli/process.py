"""What surrounds a command: standard streams that take everything, and memory that runs out.

Nothing but the standard library is imported here.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import time
from contextlib import suppress

MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
    "can't start new thread",
    "unable to mmap",
    "bad_alloc",
    "out of memory",
)
"""What libraries say, in lower case, when the system gives them no more memory."""


def open_streams() -> None:
    """Open the null device in place of standard streams that are closed, and let the others print any character.

    Else the first file that a run writes would get the number of a closed stream, and with it what libraries print
    there.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, (name, mode) in enumerate({"stdin": "r", "stdout": "w", "stderr": "w"}.items()):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def lack_of_memory(error: BaseException | None) -> str | None:
    """What a library said where an error, or what it came from, is that memory ran out; None for any other."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        told = isinstance(error, (RuntimeError, ImportError, SystemError)) and any(
            part in text.lower() for part in MEMORY
        )
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or told:
            lines = [line for line in text.splitlines() if any(part in line.lower() for part in MEMORY)]
            return next(iter(lines or text.splitlines()), "no reason was given").strip()
        error = error.__cause__ or error.__context__
    return None


def tell_launcher(text: str) -> None:
    """Leave why this process ends to torchrun, whose own report of a failure then closes with it.

    torchrun reports every exit code but 0 with a traceback of its own, which says nothing of the error: see
    ``torch.distributed.elastic.multiprocessing.errors``.
    """
    if file := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        printable = text.encode(errors="backslashreplace").decode()
        message = {"message": printable, "extraInfo": {"timestamp": str(int(time.time()))}}
        with suppress(OSError), open(file, "w", encoding="utf-8") as stream:  # noqa: PTH123  (pathlib is slow to load)
            json.dump({"message": message}, stream)


def wait_for_first_process(seconds: float = 10.0) -> None:
    """Leave it to the first process of a launcher (torchrun, accelerate launch) to report an error that all have.

    Another process waits until the launcher ends it, which is quiet and has the exit code of the error. Where that does
    not come, the error is this process's own.
    """
    if os.environ.get("RANK", "0") == "0":
        return
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, lambda *_: os._exit(2))
    time.sleep(seconds)


def is_joined() -> bool:
    """Whether this process is in a process group of PyTorch, which only one that a launcher started joins."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def end_at_once_if_joined(code: int) -> None:
    """End a process that is joined to others with ``code``, after what is registered to be run at its exit.

    While the interpreter ends, a thread that communicates with the others and still holds a tensor would abort the
    process (SIGABRT), and a launcher would report that instead of an error, or of a signal that stopped it.
    """
    if is_joined():
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
