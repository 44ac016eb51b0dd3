"""Ctrl-C while a command loads its libraries.

They catch it, or Python prints it as a traceback and goes on: so it ends the process at once then, and raises
KeyboardInterrupt at any other time. Next to nothing is imported here, for it is to hold as early as possible: what
comes before, Python's own start above all, ends in Python's own traceback.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType, TracebackType
else:
    try:  # what the module signal wraps: importing that takes longer than all that comes before it here
        import _signal as signal
    except ImportError:  # another Python
        import signal

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def end_imports_on_interrupt() -> None:
    """From now on, in a process that was started as one of our commands."""
    folder, name = os.path.split(sys.argv[0] if sys.argv else "")  # pathlib is not loaded yet
    as_module = name == "__main__.py" and os.path.basename(folder).startswith("kd_")  # noqa: PTH119
    ours = as_module or name == "-m" or name.startswith("kd-")
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


class InterruptibleImports:
    """The same while entered, in whatever process; only the main thread may ask for it."""

    def __enter__(self) -> None:
        try:
            self._before = signal.signal(signal.SIGINT, _interrupt)
        except ValueError:  # in another thread
            self._before = None

    def __exit__(
        self,
        kind: "type[BaseException] | None",
        error: "BaseException | None",
        at: "TracebackType | None",
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


def _interrupt(number: int, frame: "FrameType | None") -> None:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt
