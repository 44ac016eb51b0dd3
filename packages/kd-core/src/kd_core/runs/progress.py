"""What a run tells whoever started it: a bar on a terminal, plain lines in a pipe or notebook, all lines in its log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from kd_core.escapes import for_terminal
from kd_core.files import append
from kd_core.notes import Note

EVERY = 30.0
"""Seconds between two plain lines about one epoch."""

REFRESH = 0.5
"""Seconds between two looks at the values shown on a bar."""


def in_notebook() -> bool:
    """Whether a notebook's kernel started this process, by a ``!``: on a terminal of which each step of a bar is kept.

    Jupyter says so to its kernels by the first of these variables, and the kernel of IPython sets the other one.
    """
    return "JPY_PARENT_PID" in os.environ or "matplotlib_inline" in os.environ.get("MPLBACKEND", "")


def told_to() -> TextIO:
    """Standard error; inside a notebook's kernel standard output, because a notebook shows the other as a warning."""
    return sys.stdout if type(sys.stdout).__module__.startswith("ipykernel.") else sys.stderr


class Reporter:
    """Writes to ``stream``, unless told otherwise :func:`told_to`, and through to the file ``log``.

    With ``silent`` (every process but the main one) it writes nothing. A stream that goes away, as a closed
    terminal does, ends no run: the log goes on.
    """

    def __init__(self, log: Path | None = None, *, stream: TextIO | None = None, silent: bool = False) -> None:
        self._log = None if silent else log
        self._stream = stream or told_to()
        self.silent = silent or self._stream is None  # as it is in a process whose standard error is closed
        self._terminal = not self.silent and self._stream.isatty() and not in_notebook()

    def info(self, text: str) -> None:
        """One line (or several) of text."""
        text = for_terminal(text)
        self._echo(text)
        self._write_log(text)

    def note(self, note: Note) -> None:
        """What is to say of data or a model."""
        self.info(str(note))

    def show(self, text: str) -> None:
        """A line for whoever looks on, and not for the log."""
        self._echo(for_terminal(text))

    def debug(self, text: str) -> None:
        """A line for the log alone: what only a search for a mistake wants to know."""
        self._write_log(for_terminal(text))

    @contextmanager
    def epoch(self, stage: str, epoch: int, epochs: int, steps: int, done: int = 0) -> Iterator[Epoch]:
        """Shows the way through ``steps`` steps of one epoch (counted from 0), of which ``done`` are done already."""
        title = for_terminal(f"{stage} {epoch + 1}/{epochs}")
        bar: tqdm[Any] | None = None
        if self._terminal:
            bar = tqdm(total=steps, initial=done, desc=title, file=self._stream, leave=False, **_size(self._stream))
        try:
            yield Epoch(self, title, steps, done, bar)
        finally:
            if bar is not None:
                with suppress(OSError):
                    bar.close()

    def progress(self, text: str) -> None:
        """A line on how far an epoch is: to the log, and to the stream where no bar shows it."""
        text = for_terminal(text)
        if not self._terminal:
            self._echo(text)
        self._write_log(text)

    def _echo(self, text: str) -> None:
        if self.silent:
            return
        with suppress(OSError, ValueError):  # ValueError: the stream is closed
            if self._terminal:
                tqdm.write(text, file=self._stream)
            else:
                print(text, file=self._stream, flush=True)

    def _write_log(self, text: str) -> None:
        if self._log is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            append(self._log, "".join(f"{stamp} {line}\n" for line in text.splitlines()))


class Epoch:
    """One epoch in progress."""

    def __init__(self, reporter: Reporter, title: str, steps: int, done: int, bar: tqdm[Any] | None) -> None:
        self._reporter = reporter
        self._title = title
        self._steps = steps
        self._done = done
        self._bar = bar
        self._values: dict[str, Any] = {}
        self._ticked = self._shown = time.monotonic()

    def step(self, n: int = 1, /, **values: Any) -> None:
        """``n`` more steps are done. ``values`` are numbers or scalar tensors; the last ones given are shown.

        Only those shown are read: that may wait for the device.
        """
        self._done += n
        self._values = values or self._values
        now = time.monotonic()
        if self._bar is not None:
            with suppress(OSError):
                self._bar.update(n)
                if now - self._shown >= REFRESH:
                    self._shown = now
                    self._bar.set_postfix_str(_text(self._values))
        if now - self._ticked >= EVERY:
            self._ticked = now
            self._reporter.progress(f"{self._title}: step {self._done}/{self._steps} {_text(self._values)}".rstrip())


def _size(terminal: TextIO) -> dict[str, Any]:
    """The size of the terminal a bar is on: its own, or 80 columns where it does not say."""
    try:
        columns = os.get_terminal_size(terminal.fileno()).columns
    except OSError:
        columns = 0
    return {"dynamic_ncols": True} if columns else {"ncols": 80, "nrows": 24}


def _text(values: dict[str, Any]) -> str:
    return " ".join(f"{for_terminal(name)}={float(value):.4g}" for name, value in values.items())
