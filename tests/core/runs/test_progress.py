"""What is printed: a bar on a terminal, plain lines in a pipe, every line in the log."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
from pathlib import Path

import pytest
import torch

from kd_core.runs import progress
from kd_core.runs.progress import Reporter


class Stream(io.StringIO):
    """A pipe, or a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def without_stamps(log: Path) -> list[str]:
    lines = log.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    return [line[20:] for line in lines]


def train(reporter: Reporter) -> None:
    reporter.info("stage distill")
    with reporter.epoch("distill", 0, 2, 3) as epoch:
        for step in range(3):
            epoch.step(loss=torch.tensor(1 / (step + 1)))
    reporter.info("epoch 1/2: top1 0.5\nsaved")


def test_a_pipe_gets_plain_lines(tmp_path: Path) -> None:
    stream = Stream(terminal=False)
    train(Reporter(tmp_path / "log.txt", stream=stream))
    assert stream.getvalue() == "stage distill\nepoch 1/2: top1 0.5\nsaved\n"
    assert without_stamps(tmp_path / "log.txt") == ["stage distill", "epoch 1/2: top1 0.5", "saved"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("JPY_PARENT_PID", "1"), ("MPLBACKEND", "module://matplotlib_inline.backend_inline")],
)
def test_the_terminal_of_a_notebook_gets_plain_lines(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    stream = Stream(terminal=True)
    train(Reporter(stream=stream))
    assert stream.getvalue() == "stage distill\nepoch 1/2: top1 0.5\nsaved\n"


def test_inside_a_kernel_lines_are_no_warnings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Reporter().info("one")
    stream = type("OutStream", (Stream,), {"__module__": "ipykernel.iostream"})(terminal=False)
    monkeypatch.setattr(sys, "stdout", stream)
    Reporter().info("two")
    assert capsys.readouterr().err == "one\n"
    assert stream.getvalue() == "two\n"


def test_a_note_is_in_the_log_alone(tmp_path: Path) -> None:
    stream = Stream(terminal=False)
    Reporter(tmp_path / "log.txt", stream=stream).debug("built stages.0.optimizer")
    assert stream.getvalue() == ""
    assert without_stamps(tmp_path / "log.txt") == ["built stages.0.optimizer"]


def test_a_long_epoch_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    stream = Stream(terminal=False)
    with Reporter(tmp_path / "log.txt", stream=stream).epoch("distill", 1, 4, 10, done=7) as epoch:
        epoch.step()
        epoch.step(loss=torch.tensor(0.123456), lr=0.1)
        epoch.step()
    last = "loss=0.1235 lr=0.1"
    lines = ["distill 2/4: step 8/10", f"distill 2/4: step 9/10 {last}", f"distill 2/4: step 10/10 {last}"]
    assert stream.getvalue().splitlines() == lines
    assert without_stamps(tmp_path / "log.txt") == lines


def test_a_terminal_gets_a_bar_and_the_log_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "REFRESH", 0.0)
    stream = Stream(terminal=True)
    train(Reporter(tmp_path / "log.txt", stream=stream))
    text = stream.getvalue()
    assert "\r" in text
    assert "distill 1/2" in text
    assert "3/3" in text
    assert "loss=0.3333" in text
    assert without_stamps(tmp_path / "log.txt") == ["stage distill", "epoch 1/2: top1 0.5", "saved"]


class Unreadable:
    def __float__(self) -> float:
        raise AssertionError("reading a value may wait for the device")


def test_values_that_are_not_shown_are_not_read() -> None:
    for terminal in (False, True):
        with Reporter(stream=Stream(terminal)).epoch("distill", 0, 1, 100) as epoch:
            for _ in range(100):
                epoch.step(loss=Unreadable())


def test_silent_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    stream = Stream(terminal=True)
    train(Reporter(tmp_path / "log.txt", stream=stream, silent=True))
    assert stream.getvalue() == ""
    assert not (tmp_path / "log.txt").exists()


def test_a_stream_that_goes_away_ends_no_run(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    stream = os.fdopen(writing, "w", buffering=1)
    train(Reporter(tmp_path / "log.txt", stream=stream))
    assert len(without_stamps(tmp_path / "log.txt")) == 3
    with pytest.raises(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("columns", [60, 0])
def test_on_a_real_terminal_nothing_but_the_answer_is_on_standard_output(columns: int) -> None:
    code = """
        from kd_core.runs.progress import Reporter
        reporter = Reporter()
        with reporter.epoch("distill", 0, 1, 5) as epoch:
            for _ in range(5):
                epoch.step()
                reporter.info("a line above the bar")
        print('{"metrics": {}}')
    """
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=child, check=True, text=True
    )
    seen = os.read(parent, 1 << 16).decode()
    os.close(child)
    os.close(parent)
    assert done.stdout == '{"metrics": {}}\n'
    assert "distill 1/1" in seen
    assert seen.count("a line above the bar\r\n") == 5
