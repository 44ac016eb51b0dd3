"""A command in surroundings that are not as usual: closed streams, other encodings, Ctrl-C at once, no memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from unittest.mock import ANY

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from kd_core.cli import group, process
from kd_core.cli.process import lack_of_memory, wait_for_first_process
from kd_core.errors import KDError, RunInterrupted

COMMAND = """
    import os, signal, sys
    sys.argv[0] = "kd-x"
    import kd_core.cli
    import click
    from kd_core.cli.group import make_cli
    from kd_core.errors import KDError
    main = make_cli("kd-x", package="kd-core", tasks=(), help="", registries={})

    @main.command()
    def print_all():
        click.echo("an ü, a \\u2713, and bytes \\udcff")
        raise KDError("a ü that is \\udcff wrong")

    @main.command()
    def write():
        with open("first", "w") as file:
            os.write(2, b"a library's words")
            file.write("content")

    @main.command()
    def interrupted_import():
        import interrupting

    @main.command()
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)

    @main.command()
    def hungry():
        try:
            raise ImportError("libx.so: failed to map segment from shared object")
        except ImportError as error:
            raise ImportError("READ THIS FIRST") from error

    main()
"""
INTERRUPTING = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"


EARLY = {"kd_core", "kd_core.cli", "kd_core.cli.interrupt", "__future__"}
"""What is imported before Ctrl-C is one line, beside the package whose command it is."""


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("command.py").write_text(textwrap.dedent(COMMAND))
    Path("interrupting.py").write_text(INTERRUPTING)


def test_a_launcher_is_told_why_a_process_ends(tmp_path: Path) -> None:
    """In the form that torch's own ``record`` writes, which torchrun reads."""
    file = tmp_path / "error.json"
    assert shell("print-all", TORCHELASTIC_ERROR_FILE=str(file)).returncode == 2
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    assert failure.message == {"message": "a ü that is \\udcff wrong", "extraInfo": ANY}
    assert failure.timestamp > 0


@pytest.mark.parametrize("package", ["kd_vision", "kd_glue", "kd_seg", "kd_zoo"])
def test_next_to_nothing_is_imported_before_ctrl_c_is_one_line(package: str) -> None:
    code = f"""
import sys
before = set(sys.modules)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if "kd_core.cli.interrupt" in sys.modules:
            print(*set(sys.modules) - before)
            raise SystemExit
sys.meta_path.insert(0, Finder())
import {package}.cli
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) - {package, f"{package}.cli"} <= EARLY


@pytest.mark.parametrize("command", ["-m kd_vision", "kd-x"])
def test_ctrl_c_during_the_first_imports_is_one_line(command: str) -> None:
    Path("click.py").write_text(INTERRUPTING)
    Path("kd-x").write_text("from kd_vision.cli import main\nmain()\n")
    done = subprocess.run(
        [sys.executable, *command.split()],
        env={**os.environ, "PYTHONPATH": f".:{os.environ.get('PYTHONPATH', '')}"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def shell(verb: str, redirections: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    line = f"exec '{sys.executable}' command.py {verb} {redirections}"
    everything = {**os.environ, "PYTHONPATH": f".:{os.environ.get('PYTHONPATH', '')}", **environment}
    return subprocess.run(
        ["bash", "-c", line],
        env=everything,
        capture_output=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1"])
def test_any_encoding_takes_any_text(encoding: str) -> None:
    done = shell("print-all", PYTHONIOENCODING=encoding)
    assert done.returncode == 2
    umlaut = "ü".encode("utf-8" if encoding == "ascii" else encoding)  # click prints UTF-8 where it is told ASCII
    assert done.stdout.startswith(b"an " + umlaut)
    assert b"and bytes" in done.stdout
    assert done.stderr.startswith(b"a " + umlaut + b" that is")
    assert done.stderr.endswith(b" wrong\n")


@pytest.mark.parametrize("redirections", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_streams_may_be_closed_or_full(redirections: str) -> None:
    assert shell("print-all", redirections).returncode == 2


def test_no_file_gets_the_number_of_a_closed_stream() -> None:
    assert shell("write", "<&- >&- 2>&-").returncode == 0
    assert Path("first").read_text() == "content"


@pytest.mark.parametrize("verb", ["interrupted", "interrupted-import"])
def test_ctrl_c_is_one_word(verb: str) -> None:
    done = shell(verb)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


def test_ctrl_c_before_the_command_is_built() -> None:
    Path("click").mkdir()
    Path("click/__init__.py").write_text(INTERRUPTING)
    done = shell("write")
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"interrupted\n")


def test_memory_that_runs_out_is_told_with_its_cause() -> None:
    done = shell("hungry")
    assert done.returncode == 2
    assert done.stderr.startswith(b"memory ran out: libx.so: failed to map segment from shared object\n    hint: ")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "no reason was given"),
        (RuntimeError("[enforce] x.cpp\nDefaultCPUAllocator: can't allocate memory: you tried"), "DefaultCPU"),
        (RuntimeError("can't start new thread"), "can't start"),
        (RuntimeError("shapes differ"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_what_lacks_memory(error: Exception, reason: str | None) -> None:
    told = lack_of_memory(error)
    assert told is None if reason is None else (told or "").startswith(reason)


@pytest.mark.slow
@pytest.mark.parametrize("mebibytes", [800, 1500, 2000, 2500, 3000, 4000])
def test_a_limit_of_memory_gives_no_traceback(mebibytes: int) -> None:
    line = f"ulimit -v {mebibytes * 1024}; exec '{sys.executable}' -m kd_vision list losses"
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=False)
    assert done.returncode in (0, 2), done.stderr.decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what a process has loaded")
@pytest.mark.parametrize("milliseconds", [0, 10, 50, 100, 300, 600, 1000, 2000])
def test_ctrl_c_while_torch_loads_gives_no_traceback(milliseconds: int) -> None:
    command = [sys.executable, "-m", "kd_vision", "list", "losses"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text():
        time.sleep(0.001)
    time.sleep(milliseconds / 1000)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors
    assert process.returncode in (0, 130)


def test_only_other_processes_wait_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(process.time, "sleep", waited.append)
    handler = signal.getsignal(signal.SIGTERM)
    for rank, expected in (("0", []), ("1", [10.0])):
        monkeypatch.setenv("RANK", rank)
        wait_for_first_process()
        assert waited == expected
    assert signal.getsignal(signal.SIGTERM) is not handler  # it ends quietly with the code of the error
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize(("error", "waits"), [(KDError("all have it"), True), (RunInterrupted("one has it"), False)])
def test_an_error_that_all_processes_have_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: KDError, waits: bool
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(group, "wait_for_first_process", lambda: calls.append(None))
    main = group.make_cli("kd-x", package="kd-core", tasks=(), help="", registries={})

    @main.command()
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        main(["fail"])
    assert ended.value.code == 2
    assert str(error) in capsys.readouterr().err
    assert len(calls) == waits


ENDING = """
import atexit, sys
import torch.distributed as distributed
from kd_core.cli import group
from kd_core.errors import RunInterrupted

main = group.make_cli("kd-x", package="kd-core", tasks=(), help="", registries={})
atexit.register(lambda: print("registered"))
if sys.argv[1] == "joined":
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)

class Last:
    def __del__(self):
        print("the interpreter's own ending")

last = Last()

@main.command()
def fail():
    print("an answer")
    raise RunInterrupted("one process has it")

main(["fail"])
"""


@pytest.mark.parametrize(("how", "ending"), [("alone", "the interpreter's own ending\n"), ("joined", "")])
def test_a_process_that_is_joined_to_others_ends_at_once_after_an_error(how: str, ending: str) -> None:
    command = [sys.executable, "-c", ENDING, how]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == "an answer\nregistered\n" + ending
    assert done.stderr.endswith("one process has it\n")
