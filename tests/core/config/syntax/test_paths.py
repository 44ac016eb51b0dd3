"""Relative paths: beside the file that writes them, else below the working folder; absolute in a run's config."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.config import load, loads, with_absolute_paths
from kd_core.config.syntax.paths import is_relative

CONFIG = """
data: {root: pictures, files: {train: a.csv}, tokenizer: tok, cache: nowhere, text: a.csv}
models:
  student: {hub: tiny, input: {tokenizer: tok}}
  teacher: {run: runs/t, weights: w.pt}
  other: !call:torch.nn.Linear [1, 1]
stages:
  train: {data: {root: pictures}, epochs: 1}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and what it names, and another one to work in."""
    for folder in ("pictures", "tok", "tiny", "runs/t"):
        (tmp_path / "project" / folder).mkdir(parents=True)
    for file in ("a.csv", "w.pt"):
        (tmp_path / "project" / file).touch()
    (tmp_path / "project" / "c.yaml").write_text(CONFIG)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def test_a_path_is_found_beside_its_config(project: Path) -> None:
    data = load("../project/c.yaml").data
    assert data["data"] == {
        "root": "../project/pictures",
        "files": {"train": "a.csv"},  # below the root
        "tokenizer": "../project/tok",
        "cache": "nowhere",  # there is none beside the config
        "text": "a.csv",  # no path
    }
    assert data["models"]["student"] == {"hub": "../project/tiny", "input": {"tokenizer": "../project/tok"}}
    assert data["models"]["teacher"] == {"run": "../project/runs/t", "weights": "../project/w.pt"}
    assert data["stages"]["train"]["data"] == {"root": "../project/pictures"}


def test_a_base_writes_paths_beside_itself_and_options_below_the_working_folder(project: Path) -> None:
    (project / "below").mkdir()
    (project / "below" / "d.yaml").write_text("extends: ../c.yaml\ndata: {root: null}\n")
    document = load(project / "below" / "d.yaml", ["models.teacher.weights=w.pt"])
    assert document.data["data"]["files"]["train"] == str(project / "a.csv")
    assert document.data["models"]["teacher"] == {"run": str(project / "runs/t"), "weights": "w.pt"}


def test_beside_the_config_the_texts_stay(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    assert load("c.yaml").data["data"]["root"] == "pictures"


def test_a_runs_config_has_absolute_paths(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    document = load("c.yaml", ["data.root=null", "models.student.hub=org/name"])
    placed, here = with_absolute_paths(document, {("stages", "train", "data", "cache"): "cache"}), Path.cwd()
    assert placed.data["data"] == {
        "root": None,
        "files": {"train": str(here / "a.csv")},
        "tokenizer": str(here / "tok"),
        "cache": str(here / "nowhere"),
        "text": "a.csv",
    }
    assert placed.data["models"]["student"] == {"hub": "org/name", "input": {"tokenizer": str(here / "tok")}}
    assert placed.data["models"]["teacher"] == {"run": str(here / "runs/t"), "weights": str(here / "w.pt")}
    assert placed.data["stages"]["train"]["data"] == {"root": str(here / "pictures"), "cache": str(here / "cache")}
    assert document.data["data"]["tokenizer"] == "tok"
    assert placed.mark(("data", "tokenizer")) == document.mark(("data", "tokenizer"))


@pytest.mark.parametrize("value", ["", "auto", "https://host/w.pt", "/w.pt", "~/w.pt"])
def test_what_is_no_relative_path(value: str) -> None:
    assert not is_relative(value)


def test_odd_texts_are_no_files(project: Path) -> None:
    for text in ("x" * 5000, "~nobody/x"):
        document = loads(f"data: {{tokenizer: {text}}}")
        assert with_absolute_paths(document, {}).data == {"data": {"tokenizer": text}} == document.data


@pytest.mark.parametrize("root", ["below", None])
@pytest.mark.parametrize("key", ["images", "files.train"])
def test_images_and_files_below_a_root_stay_what_they_are(
    project: Path, monkeypatch: pytest.MonkeyPatch, key: str, root: str | None
) -> None:
    monkeypatch.chdir(project)
    (project / "mine").mkdir()
    value = "mine" if key == "images" else "{train: mine}"
    name = key.split(".")[0]
    (project / "d.yaml").write_text(f"data: {{root: {root or 'null'}, {name}: {value}}}\n")
    placed = with_absolute_paths(load(project / "d.yaml"), {}).data["data"]
    expected = "mine" if root else str(project / "mine")
    assert placed[name] == (expected if key == "images" else {"train": expected})
