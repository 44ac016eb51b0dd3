"""The documentation's site: links that work on GitHub and on the site, and nothing that is loaded from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import pytest
from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = spec_from_file_location("site_hooks", ROOT / "scripts" / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("target", "source", "page", "expected"),
    [
        ("docs/runs.md#disk", "README.md", "index.md", "runs.md#disk"),
        ("../README.md#install", "docs/tutorial.md", "tutorial.md", "index.md#install"),
        ("../wires.md", "docs/extending/loss.md", "extending/loss.md", "../wires.md"),
        ("../LICENSE", "docs/licences.md", "licences.md", "source/LICENSE.md"),
        ("configs/vision", "README.md", "index.md", "source/configs/vision.md"),
        ("../.github/workflows/ci.yml", "docs/a.md", "a.md", "source/dot-github/workflows/ci.yml.md"),
        ("../../CONTRIBUTING.md", "docs/extending/loss.md", "extending/loss.md", "../contributing.md"),
        ("comparing.svg", "docs/comparing.md", "comparing.md", "comparing.svg"),
        ("https://arxiv.org/abs/1503.02531", "README.md", "index.md", "https://arxiv.org/abs/1503.02531"),
        ("#install", "README.md", "index.md", "#install"),
    ],
)
def test_a_link_of_the_repository_is_one_of_the_site(
    hooks: ModuleType, target: str, source: str, page: str, expected: str
) -> None:
    assert hooks.target_of(target, source, page) == expected


def test_links_in_code_are_no_links(hooks: ModuleType) -> None:
    text = "[a](docs/a.md) `[b](docs/b.md)`\n\n```md\n[c](docs/c.md)\n```\n[d](docs/d.md)\n"
    changed = hooks.outside_code(text, lambda match: f"{match[1]}HERE{match[3]}")
    assert changed == "[a](HERE) `[b](docs/b.md)`\n\n```md\n[c](docs/c.md)\n```\n[d](HERE)\n"
    assert hooks.linked("[x](configs/vision) `[y](LICENSE)` [z](docs/runs.md)", "README.md") == {"configs/vision"}


def test_a_folder_is_listed_and_a_file_is_shown(hooks: ModuleType) -> None:
    folder = hooks.shown_as_page("configs/seg")
    assert "| [scenes_cwd.yaml](seg/scenes_cwd.yaml) | Channel-wise distillation (arXiv 2011.13256)" in folder
    assert "_voc2012" not in folder.replace("cirkd_", "")
    assert hooks.shown_as_page("mkdocs.yml").startswith("# mkdocs.yml\n\n````yaml\n")


def test_a_notebook_is_prose_and_code(hooks: ModuleType) -> None:
    cells = [{"cell_type": "markdown", "source": ["# Title\n", "Text."]}, {"cell_type": "code", "source": "x = 1\n"}]
    assert hooks.notebook_page(json.dumps({"cells": cells})) == "# Title\nText.\n\n````python\nx = 1\n````\n"


def test_a_page_that_loads_from_elsewhere_is_an_error(hooks: ModuleType) -> None:
    shim = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
    assert "unpkg" not in hooks.on_post_page(f'{shim}<a href="https://arxiv.org">')
    with pytest.raises(PluginError, match="from elsewhere"):
        hooks.on_post_page('<link rel="stylesheet" href="https://fonts.example.org/a.css">')


def test_the_modules_of_the_api_are_there(hooks: ModuleType) -> None:
    packages = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert set(hooks.API) == packages
    for package, subjects in hooks.API.items():
        for module in (module for modules in subjects.values() for module in modules):
            assert module.partition(".")[0] == package.replace("-", "_")
            assert find_spec(module) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_to_elsewhere_are_addresses(page: Path) -> None:
    for link in re.findall(r"\]\((\w+:[^)\s]*)\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        parts = urlsplit(link)
        assert parts.scheme == "https", link
        assert re.fullmatch(r"[\w.-]+\.\w{2,}", parts.netloc), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_list_begins_behind_an_empty_line(page: Path) -> None:
    """On GitHub it need not; on the site it would be a part of the paragraph."""
    lines = FENCE.sub("", page.read_text(encoding="utf-8")).splitlines()
    item, before = re.compile(r"([-*]|\d+\.) "), re.compile(r"\s*([-*]|\d+\.) |  |$")
    wrong = [after for line, after in pairwise(lines) if item.match(after) and not before.match(line)]
    assert wrong == []


@pytest.mark.slow
def test_the_site_is_built(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("index", "methods", "api/kd-core", "extending/loss", "source/configs/vision"):
        assert (tmp_path / f"{name}.html").is_file()
    assert "attention_transfer" in (tmp_path / "search" / "search_index.json").read_text(encoding="utf-8")
