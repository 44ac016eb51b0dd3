"""The pages of docs/extending, followed to the letter in a copy of this repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from kd_core.registry import PLUGINS

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/extending/*.md"))}
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
REFERENCE = """\
class ChatDistiller:
    def calc_engine_loss(self, mask, student, teacher):
        import torch

        entropy = torch.distributions.Categorical(logits=student).entropy()
        divergence = (student.softmax(-1) * (student.log_softmax(-1) - teacher.log_softmax(-1))).sum(-1)
        return (entropy + divergence)[mask].mean()
"""
"""Stands in for the authors' code, which a test without a network has not: the same number by another formula."""
MISTAKES = {
    "outside": "kd-vision check my_study/stripes.yaml",
    "data-source": "kd-vision check my_study/spots.yaml --trust spots --set data.test_fold=5",
}
"""Commands that fail, by the page that shows what they print."""
DRIVER = Path(__file__).with_name("follow.py")


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The path that the first line consists of, where it does."""
        match = re.match(r"# (\S+/\S+|\w+\.toml)\n", self.text)
        return match[1] if match else None

    @property
    def body(self) -> str:
        """What is below the path; a file of a language with comments keeps that line."""
        return self.text.partition("\n")[2] if self.language in ("diff", "markdown") else self.text


def blocks_of(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(*match) for match in FENCE.findall(PAGES[page])]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = {
    page: [line for block in blocks_of(page) if block.language == "sh" for line in block.text.splitlines()]
    for page in PAGES
}


def changed(text: str, diff: str) -> str:
    """``text`` with each hunk's old lines, which must stand there once, replaced by its new ones."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE):
        lines = [(line[:1] or " ", line[1:]) for line in hunk.splitlines()]
        old, new = ("".join(f"{line}\n" for sign, line in lines if sign != drop) for drop in "+-")
        assert f"\n{text}".count(f"\n{old}") == 1, f"these lines must be there once:\n{old}"
        text = f"\n{text}".replace(f"\n{old}", f"\n{new}")[1:]
    return text


def follow(folder: Path) -> None:
    """Write every file of the pages and make every change in them."""
    for block in BLOCKS:
        if block.file is None:
            continue
        file = folder / block.file
        file.parent.mkdir(parents=True, exist_ok=True)
        body = changed(file.read_text(encoding="utf-8"), block.body) if block.language == "diff" else block.body
        file.write_text(body, encoding="utf-8")


def write_reference(folder: Path) -> None:
    """Write a repository in the place of the one that a page clones."""
    file = folder / "repos" / "MANGA-UOFA" / "fdistill" / "chat" / "kd.py"
    file.parent.mkdir(parents=True)
    file.write_text(REFERENCE, encoding="utf-8")
    git = ["git", "-C", str(file.parents[1]), "-c", "user.name=us", "-c", "user.email=us"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "ours"]):
        subprocess.run([*git, *arguments], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    script = folder / "tests" / "golden" / "make_losses.py"
    text, count = re.subn(r'("MANGA-UOFA/fdistill",\s+)"\w+"', rf'\1"{commit}"', script.read_text(encoding="utf-8"))
    assert count == 1
    script.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository with all recipes followed."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("packages", "configs", "docs", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    follow(folder)
    write_reference(folder)
    return folder


@pytest.fixture(scope="module")
def answers(clone: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of every command of the pages, run in one process: else each would import torch."""
    sources = [clone / "site", *sorted(clone.glob("packages/*/src")), *sorted(clone.glob("*/src"))]
    commands = [command for page in COMMANDS.values() for command in page]
    plugins = ",".join(path.parent.name for path in clone.rglob("pyproject.toml"))  # those of the recipes too
    done = subprocess.run(
        [sys.executable, str(DRIVER)],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources)), "OMP_NUM_THREADS": "1", PLUGINS: plugins},
        input=json.dumps([*commands, *MISTAKES.values()]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs: dict[str, tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return outputs


@pytest.mark.parametrize(
    ("page", "command"),
    [
        pytest.param(page, command, id=f"{page}: {command}")
        for page, commands in COMMANDS.items()
        for command in commands
    ],
)
def test_the_command_works(answers: dict[str, tuple[int, str]], page: str, command: str) -> None:
    code, output = answers[command]
    assert code == 0, output


@pytest.mark.parametrize("page", MISTAKES)
def test_a_mistake_is_answered_as_shown(answers: dict[str, tuple[int, str]], page: str) -> None:
    (shown,) = (block.text for block in blocks_of(page) if block.language == "text")
    code, output = answers[MISTAKES[page]]
    assert code == 2
    assert shown in output


@pytest.mark.parametrize("arguments", ["check", "format --check"])
def test_the_recipes_pass_the_checks(clone: Path, arguments: str) -> None:
    folders = sorted({str(file).split("/")[0] for block in BLOCKS if (file := block.file)} - {"docs", "configs"})
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments.split(), "--no-cache", *folders],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
