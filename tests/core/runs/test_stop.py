"""The first signal asks a run to stop, the second one ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from kd_core.runs.stop import Stopped, StopRequest


@pytest.mark.parametrize("number", StopRequest.SIGNALS)
def test_the_first_signal_sets_a_flag(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop
        signal.raise_signal(number)
        assert stop
        assert Stopped("saved", stop.number).exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert "a second signal" in capfd.readouterr().err
    assert {"SIGINT", "SIGTERM"} <= {signal.Signals(each).name for each in StopRequest.SIGNALS}
    assert not hasattr(signal, "SIGUSR2") or signal.SIGUSR2 in StopRequest.SIGNALS


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_second_signal_raises(number: signal.Signals, error: type[BaseException]) -> None:
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(error):
            signal.raise_signal(number)


def test_in_another_thread_it_does_nothing() -> None:
    seen = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_exits_with_the_signals_code_and_one_line(number: signal.Signals, code: int) -> None:
    script = """
        import time
        from kd_core.cli.group import make_cli
        from kd_core.runs.stop import Stopped, StopRequest
        main = make_cli("kd-x", package="kd-core", tasks=(), help="", registries={})
        @main.command()
        def work():
            with StopRequest() as stop:
                print("working", flush=True)
                while not stop:
                    time.sleep(0.01)
                raise Stopped("saved; `kd-x resume runs/x` goes on", stop.number)
        main(["work"])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "working\n"
        process.send_signal(number)
        assert process.stderr.read().splitlines()[-1] == "saved; `kd-x resume runs/x` goes on"
        assert process.wait() == code


def test_a_request_within_another_passes_on_what_it_is_asked() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            signal.raise_signal(signal.SIGTERM)
            assert inner.number == outer.number == signal.SIGTERM
        with StopRequest() as later:
            assert later
    with StopRequest() as other:
        assert not other
