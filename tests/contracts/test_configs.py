"""Every config opens with its command, which parses, and passes `check --strict`."""

from __future__ import annotations

import shlex
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in ROOT.glob("configs/**/*.yaml")
    if not any(part.startswith("_") for part in path.relative_to(ROOT).parts)
)
LONGEST = 25
"""Lines of a config that a person is to read at a glance."""


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def opening(config: Path) -> tuple[click.Group, list[str]]:
    """The command in a config's first line, and its arguments."""
    first = config.read_text(encoding="utf-8").partition("\n")[0]
    assert first.startswith("# kd-"), f"the first line is {first!r}, not `# kd-... train {config.as_posix()}`"
    name, *arguments = shlex.split(first[2:])
    (script,) = entry_points(group="console_scripts", name=name)
    return script.load(), arguments


def test_there_are_configs() -> None:
    assert len(CONFIGS) >= 8


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_the_first_line_is_the_command(config: Path) -> None:
    group, arguments = opening(config)
    assert arguments[:2] == ["train", config.as_posix()]
    group.commands["train"].make_context("train", arguments[1:])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_it_passes_the_strict_check(config: Path) -> None:
    group, arguments = opening(config)
    given = group.commands["train"].make_context("train", arguments[1:]).params
    options = [f"--set={each}" for each in given["overrides"]] + [f"--trust={each}" for each in given["trust"]]
    done = CliRunner().invoke(group, ["check", "--strict", config.as_posix(), *options])
    assert done.exit_code == 0, done.stderr
    assert "unverified" not in done.stdout


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_it_is_short(config: Path) -> None:
    assert len(config.read_text(encoding="utf-8").splitlines()) <= LONGEST
