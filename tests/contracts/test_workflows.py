"""The workflows and forms of .github: they parse, and what they run is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import entry_points
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml"])
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROOT.glob(".github/workflows/*")}


def commands(workflow: str) -> Iterator[list[str]]:
    """The command lines of a workflow's steps, as a shell splits them."""
    for job in WORKFLOWS[workflow]["jobs"].values():
        for step in job["steps"]:
            for line in step.get("run", "").replace("\\\n", " ").splitlines():
                yield shlex.split(line, comments=True) if line.startswith(("kd-", "make ")) else []


RUNS = [words for words in commands("ci") if words and words[0].startswith("kd-")]
TRAININGS = [words for words in RUNS if words[1] == "train" and "--help" not in words]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_every_supported_python_is_tested() -> None:
    matrix: dict[str, Any] = WORKFLOWS["ci"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    for project in ROOT.glob("packages/*/pyproject.toml"):
        assert 'requires-python = ">=3.10"' in project.read_text(encoding="utf-8")


def test_other_systems_train() -> None:
    assert WORKFLOWS["ci"]["jobs"]["smoke"]["strategy"]["matrix"]["os"] == ["windows-latest", "macos-latest"]
    assert {words[0] for words in TRAININGS} == {"kd-vision", "kd-seg"}


def test_the_changelog_has_a_section_for_what_is_not_released() -> None:
    sections = re.findall(r"^## \[(.+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sections[0] == "Unreleased"


def test_only_publishing_may_identify_itself_to_the_package_index() -> None:
    permissions = {name: job.get("permissions") for name, job in WORKFLOWS["release"]["jobs"].items()}
    assert permissions == {"build": None, "publish": {"id-token": "write"}, "notes": {"contents": "write"}}
    assert WORKFLOWS["release"]["jobs"]["publish"]["environment"] == "release"
    assert WORKFLOWS["release"]["permissions"] == WORKFLOWS["ci"]["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("words", TRAININGS, ids=" ".join)
def test_config_and_overrides_of_a_training_are_right(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sets = [words[position : position + 2] for position, word in enumerate(words) if word == "--set"]
    (script,) = entry_points(group="console_scripts", name=words[0])
    result = CliRunner().invoke(script.load(), ["check", words[2], *chain.from_iterable(sets)])
    assert result.exit_code == 0, result.output


def test_targets_of_make_are_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {words[1] for words in commands("ci") if words and words[0] == "make"} <= targets
