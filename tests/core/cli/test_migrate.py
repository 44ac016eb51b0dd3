"""The command migrate."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.core.migrate.conftest import document

from kd_core.cli.migrate import migrate


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of two files that can be translated and one that cannot."""
    folder = tmp_path / "theirs"
    (folder / "kd").mkdir(parents=True)
    (folder / "a.yaml").write_text(document(), encoding="utf-8")
    (folder / "kd" / "a.yaml").write_text(document(), encoding="utf-8")
    (folder / "broken.yaml").write_text(document().replace("KDLoss", "NoLoss"), encoding="utf-8")
    return folder


def run(*arguments: object) -> Result:
    from kd_core.cli.group import Commands

    group = Commands("kd")
    group.add_command(migrate)
    return CliRunner().invoke(group, ["migrate", *map(str, arguments)])


def test_one_file_is_printed_and_what_differs_goes_to_standard_error(files: Path) -> None:
    result = run(files / "a.yaml")
    assert result.exit_code == 0
    assert result.stdout.startswith("# kd-vision train a.yaml")
    assert "chosen-on-test: data: torchdistill keeps the best epoch on the test images" in result.stderr


def test_many_files_keep_their_folders_and_a_broken_one_stops_no_other(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    result = run(files, "--out", out)
    assert result.exit_code == 2
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*.yaml")) == ["a.yaml", "kd/a.yaml"]
    assert "broken.yaml:" in result.stderr
    assert "the loss 'NoLoss' cannot be translated" in result.stderr
    assert "2 of 3 files translated" in result.stdout
    assert "teacher-in-training-mode: 2 files" in result.stdout


def test_several_files_need_a_folder(files: Path) -> None:
    result = run(files)
    assert result.exit_code == 2
    assert "3 files need a folder for their configs" in result.stderr


def test_another_file_is_not_replaced_unless_forced(files: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("mine", encoding="utf-8")
    assert "there is another file" in run(files / "a.yaml", "--out", tmp_path).stderr
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8") == "mine"
    assert run(files / "a.yaml", "--out", tmp_path, "--force").exit_code == 0
    assert run(files / "a.yaml", "--out", tmp_path).exit_code == 0  # it is the same


def test_json_has_all_of_it(files: Path, tmp_path: Path) -> None:
    told = json.loads(run(files, "--out", tmp_path / "ours", "--json").stdout)
    assert told["ok"] is False
    (problem,) = told["files"][str(files / "broken.yaml")]["problems"]
    assert problem["path"].endswith("criterion.key")
    assert problem["line"] > 1
    assert told["files"][str(files / "a.yaml")]["differences"][0].keys() == {"kind", "path", "text"}


def test_a_folder_without_files_is_an_error(tmp_path: Path) -> None:
    assert "there is no YAML file in this folder" in run(tmp_path).stderr


def test_the_module_has_the_command_too(files: Path) -> None:
    command = [sys.executable, "-m", "kd_core", "migrate", str(files / "a.yaml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.startswith("# kd-vision train")
