"""The configs that a package brings along: commands take them by name, wherever they run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kd_core.cli.group import make_cli
from kd_core.cli.shipped import about, shipped

CONFIG = """# kd-mine train a_kd.yaml
# yaml-language-server: $schema=schema.json
# Soft targets, as usual. More of it.
extends: _base.yaml
seed: 1
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed package with a config, and a working folder without one."""
    folder = tmp_path / "site" / "kd_brought" / "configs" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "site" / "kd_brought" / "__init__.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    (folder / "a_kd.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "_base.yaml").write_text("seed: 2\nmodels: {}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "site")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    yield "kd_brought"
    sys.modules.pop("kd_brought", None)


def run(*arguments: str) -> Result:
    group = make_cli("kd-mine", package="kd-brought", tasks=(), help="", registries={})
    return CliRunner().invoke(group, list(arguments))


def test_configs_are_found_without_importing_the_package(package: str) -> None:
    assert list(shipped(package)) == ["a_kd"]
    assert about(shipped(package)["a_kd"]) == "Soft targets, as usual"
    assert shipped("no_such_package") == {}


def test_a_command_takes_a_name(package: str) -> None:
    assert "a_kd.yaml" in run("show", "a_kd").output


@pytest.mark.parametrize("verb", ["compare", "sweep"])
def test_a_study_takes_a_name(package: str, verb: str) -> None:
    result = run(verb, "a_kd")
    assert "a_kd.yaml" in str(result.output or result.exception)
    assert "no such file" not in str(result.output or result.exception)


def test_a_file_comes_before_a_name(package: str) -> None:
    Path("a_kd").write_text("seed: x", encoding="utf-8")
    assert str(Path("a_kd")) + ":1:7" in run("show", "a_kd").output


def test_an_unknown_name_is_an_error_with_the_nearest_one(package: str) -> None:
    result = run("check", "a_kdd")
    assert result.exit_code != 0
    assert "a_kdd: no such file, and no config of that name" in str(result.output or result.exception)
    assert "'a_kd'" in str(result.output or result.exception)


def test_a_path_in_a_clone_that_is_not_there_has_the_name_as_its_hint(package: str) -> None:
    said = run("show", "configs/mine/a_kd.yaml").output
    assert "a_kd.yaml: no such file" in said
    assert "write a_kd in place of the path" in said


def test_they_are_listed(package: str) -> None:
    assert run("list", "configs").stdout == "a_kd\n    Soft targets, as usual\n"
    assert json.loads(run("list", "configs", "--json").stdout)["configs"]["a_kd"]["summary"] == "Soft targets, as usual"


@pytest.mark.parametrize(
    ("name", "folders"), [("kd_vision", ["detection", "vision"]), ("kd_glue", ["glue"]), ("kd_seg", ["seg"])]
)
def test_every_package_brings_the_configs_of_the_repository(name: str, folders: list[str]) -> None:
    """They are links into configs/, which a wheel and an sdist hold as files: no second copy in the repository."""
    root = Path(__file__).parents[3] / "configs"
    files = [file for folder in folders for file in (root / folder).glob("[!_]*.yaml")]
    found = shipped(name)
    assert {file.stem for file in files} == set(found)
    assert len(found) == len(files)
    assert all(file.resolve().is_relative_to(root) for file in found.values())
