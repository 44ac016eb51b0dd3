"""The environment of worker processes, and what becomes of one that does not end well."""

from __future__ import annotations

import os
import sys

import pytest

from kd_core.study import workers
from kd_core.study.study import Request


def test_workers_share_the_cores_and_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    found = [workers.environment(number, 3) for number in range(3)]
    assert [variables["CUDA_VISIBLE_DEVICES"] for variables in found] == ["2", "5", "2"]
    assert {variables["OMP_NUM_THREADS"] for variables in found} == {"2"}


@pytest.mark.parametrize("visible", ["", "3"])
def test_one_gpu_or_none_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    variables = workers.environment(1, 2)
    assert (variables["CUDA_VISIBLE_DEVICES"], variables["OMP_NUM_THREADS"]) == (visible, "7")


def test_a_worker_that_is_lost_is_told_and_its_lines_have_its_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker is given its request, and here ends without reading more."""
    code = "import sys; print(sys.stdin.readline()[:12], file=sys.stderr); sys.exit(7)"
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", code))
    assert workers.run_workers(Request(["a.yaml"], "out"), 2) == [
        "worker 0 ended with exit code 7",
        "worker 1 ended with exit code 7",
    ]
    assert sorted(capsys.readouterr().err.splitlines()) == ['[0] {"targets":', '[1] {"targets":']


def test_an_interrupt_asks_the_workers_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker here ends when its standard input does."""
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", "import sys; sys.stdin.read()"))
    started = []
    start = workers._start

    class Interrupted(workers.subprocess.Popen):  # type: ignore[name-defined, misc]
        def wait(self, timeout: float | None = None) -> int:
            if timeout is None:
                raise KeyboardInterrupt
            return int(super().wait(timeout))

    monkeypatch.setattr(workers.subprocess, "Popen", Interrupted)
    monkeypatch.setattr(workers, "_start", lambda *given: started.append(start(*given)) or started[-1])
    with pytest.raises(KeyboardInterrupt):
        workers.run_workers(Request(["a.yaml"], "out"), 2)
    assert [worker.returncode for worker in started] == [0, 0]
