"""Whatever a stranger's config says, ``check`` runs none of it, writes nothing, opens no connection, and says why."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kd_vision.cli import main

HOSTILE = runpy.run_path(str(Path(__file__).with_name("hostile.py")))
RUNNING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty")
CONNECTING = (
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.sendto",
    "urllib.Request",
    "ftplib.connect",
)
CHANGING = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
BASE = """\
task: image_classification
data: {name: digits, limit: 20, val: 4, augment: none}
models: {student: {arch: cnn, width: 2}}
stages:
  s:
    steps: 1
    batch_size: 4
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


class Watch:
    """An audit hook, which cannot be taken away again, with what it saw while it was on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        written = event == "open" and isinstance(args[2], int) and args[2] & WRITING and args[0] != os.devnull
        code = event in ("compile", "exec") and "PWNED" in repr(args[0])
        if written or code or event in RUNNING + CONNECTING + CHANGING:
            self.seen.append(f"{event} {args!r}")


WATCH = Watch()
sys.addaudithook(WATCH)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """The working folder of a stranger, with a module beside the config; at the end nothing in it has changed."""
    (tmp_path / "evil.py").write_text("open('PWNED', 'w').close()\ndef run(*_, **__): open('PWNED', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    WATCH.seen.clear()
    yield WATCH
    WATCH.on = False
    assert not (tmp_path / "PWNED").exists()
    assert "evil" not in sys.modules


def answer(watch: Watch, text: str, *options: str) -> str:
    """What ``check`` says of a config, which it must refuse."""
    Path("config.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
    watch.on = True
    done = CliRunner().invoke(main, ["check", "config.yaml", *options])
    watch.on = False
    assert isinstance(done.exception, SystemExit), (done.exception, done.output)
    assert done.exit_code == 2, done.output
    assert watch.seen == []
    assert "Traceback" not in done.output
    assert all(character.isprintable() or character in "\n\t" for character in done.output)
    assert len(done.output) < 100_000
    return done.output


@pytest.fixture(autouse=True, scope="module")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a check imports, it has imported before the watch begins."""
    config = tmp_path_factory.mktemp("right") / "config.yaml"
    config.write_text(BASE)
    done = CliRunner().invoke(main, ["check", str(config)])
    assert done.exit_code == 0, done.output
    import torchvision.datasets  # noqa: F401


def test_there_are_many() -> None:
    tables = ("NAMES", "OBJECTS", "CHILDREN", "TEXTS", "PLACES")
    assert sum(len(HOSTILE[table]) for table in tables) >= 250


@pytest.mark.parametrize("name", HOSTILE["NAMES"])
def test_names(watched: Watch, name: str) -> None:
    for place in ("models.student", "stages.s.losses.ce.loss"):
        output = answer(watched, BASE, "--set", f"{place}=!call:{name} [touch PWNED]")
        assert "blocked" in output or "has no" in output or "not a" in output or "there is no" in output, output
    answer(watched, BASE, "--set", f"models.student=!call:torch.nn.Identity [!get:{name} ]")


@pytest.mark.parametrize("value", HOSTILE["OBJECTS"].values(), ids=HOSTILE["OBJECTS"])
def test_objects(watched: Watch, value: str) -> None:
    answer(watched, BASE, "--set", f"models.student={value}")
    answer(watched, BASE, "--set", f"stages.s.losses.ce.loss=!call:torch.nn.Sequential [{value}]")


@pytest.mark.parametrize("name", HOSTILE["CHILDREN"])
def test_names_of_children(watched: Watch, name: str) -> None:
    value = f'!call:torch.nn.ModuleDict [{{"{name}": !call:torch.nn.Linear [2, 2]}}]'.replace(
        '"+evil+"', '\\"+evil+\\"'
    )
    answer(watched, BASE, "--set", f"models.student=!call:torch.nn.Sequential [{value}]")


@pytest.mark.parametrize("text", HOSTILE["TEXTS"].values(), ids=HOSTILE["TEXTS"])
def test_texts(watched: Watch, text: str) -> None:
    answer(watched, text)


@pytest.mark.parametrize("setting", HOSTILE["PLACES"].values(), ids=HOSTILE["PLACES"])
def test_places(watched: Watch, setting: str) -> None:
    place, _, value = setting.partition(": ")
    answer(watched, BASE, "--set", f"{place}={value}")
