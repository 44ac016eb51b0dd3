"""The notebooks: their form, and each run from top to bottom on small data."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from kd_core.cli.shipped import shipped
from kd_core.experiment import Experiment

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in FILES}
MADE = {"experiment.yaml", "student.yaml", "teacher.yaml"}
"""Configs that cells write."""
CHECKED = """\
shell = get_ipython()

def checked(command, system=shell.system):
    system(command)
    if shell.user_ns["_exit_code"]:
        raise SystemError(f"{command} ended with {shell.user_ns['_exit_code']}")

shell.system = checked
"""
"""Makes a command that fails end the notebook, which goes on in Jupyter."""


def sources(name: str, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == kind]


def commands(name: str) -> list[str]:
    """The command lines of the code cells, and those shown as text."""
    shown = [text for cell in sources(name, "markdown") for text in re.findall(r"^```sh\n(.*?)^```", cell, re.S | re.M)]
    lines = "\n".join(sources(name, "code")).replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("!") for line in lines if line.strip().startswith("!")] + [
        line for text in shown for line in text.splitlines()
    ]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_file_is_a_source_without_outputs(name: str) -> None:
    notebook, text = NOTEBOOKS[name], (ROOT / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert (notebook["nbformat"], notebook["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code_cells(notebook))
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", each) for each in names)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_begins_with_what_it_teaches_and_how_it_is_set_up(name: str) -> None:
    first = sources(name, "markdown")[0]
    assert first.startswith("# ")
    assert "**What it teaches:**" in first
    assert "**How long it takes:**" in first
    install, parameters, *others = code_cells(NOTEBOOKS[name])
    assert "importlib.util.find_spec" in "".join(install["source"])
    assert parameters["metadata"] == {"tags": ["parameters"]}
    assert "KD_NOTEBOOKS_SMALL" in "".join(parameters["source"])
    assert not any("SMALL" in "".join(cell["source"]) or cell["metadata"] for cell in others)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join(sources(name, "markdown"))):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            page = ROOT / "notebooks" / path
            assert page.is_file(), target
            titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
            assert not anchor or anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_command_and_config_exists(name: str) -> None:
    told = [shlex.split(line) for line in commands(name) if line.startswith("kd-")]
    assert told
    for command, verb, *arguments in told:
        package = command.replace("-", "_")
        verbs = import_module(f"{package}.cli").main.commands
        assert verb in verbs
        options = {text for parameter in verbs[verb].params for text in (*parameter.opts, *parameter.secondary_opts)}
        assert {argument for argument in arguments if argument.startswith("--")} <= options
        if verb in ("train", "show", "check", "taps") and not arguments[0].startswith("{"):
            assert arguments[0] in shipped(package) or arguments[0] in MADE


def trainings(name: str, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """The shipped configs that a notebook trains as its user runs it, with the values that are replaced."""
    monkeypatch.delenv("KD_NOTEBOOKS_SMALL", raising=False)
    names: dict[str, Any] = {}
    exec("".join(code_cells(NOTEBOOKS[name])[1]["source"]), names)
    for line in re.findall(r"^OPTIONS \+?= .*$", "\n".join(sources(name, "code")), re.M):
        exec(line, names)
    names["task"] = names.get("TASKS", [""])[0]
    found = []
    for line in commands(name):
        words = shlex.split(eval(f"rf{line!r}", names)) if re.match(r"kd-\w+ train ", line) else []
        configs = shipped(words[0].replace("-", "_")) if words else {}
        if words and words[2] in configs:
            values = [value for option, value in pairwise(words) if option == "--set"]
            found.append((configs[words[2]], values))
    return found


@pytest.mark.parametrize("name", ["cifar_training", "cifar_distillation", "glue_finetuning", "glue_distillation"])
def test_the_real_trainings_are_experiments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = trainings(name, monkeypatch)
    assert found
    for config, values in found:
        assert Experiment.load(config, overrides=values).trains


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_training", "cifar_distillation", "object_detection"])
def test_the_real_trainings_pass_their_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for config, values in trainings(name, monkeypatch):
        Experiment.load(config, overrides=values).check()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_listed(name: str) -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert f"(../notebooks/{name}.ipynb)" in page


# -- each from top to bottom


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder that ``small.py`` makes."""
    folder = tmp_path_factory.mktemp("prepared")
    script = str(ROOT / "notebooks" / "small.py")
    subprocess.run([sys.executable, script], cwd=folder, env=environment(), check=True, capture_output=True)
    return folder


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ours = {"KD_NOTEBOOKS_SMALL": "1", "KD_CACHE": "kd-cache", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **ours, "PATH": path}


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    shutil.copytree(prepared, tmp_path / "work")
    return tmp_path / "work"


def execute(name: str, folder: Path) -> str:
    """Run a notebook in a folder, leave it there with its outputs, and return its texts."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(CHECKED))
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources)
    client.execute(env=environment())
    del notebook.cells[0]
    nbformat.write(notebook, folder / f"{name}.ipynb")
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(str(output.get("text") or output.get("data")) for output in outputs)


def score(run: Path, metric: str) -> float:
    return float(json.loads((run / "result.json").read_text(encoding="utf-8"))["metrics"][metric])


def check_archive(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert len(archive.namelist()) == 11


@pytest.mark.slow
def test_cifar_training(folder: Path) -> None:
    shown = execute("cifar_training", folder)
    assert score(folder / "runs/classifier", "top1") > 60
    assert "has no parameter 'lrr'" in shown
    assert shown.count("<iframe") == 2


@pytest.mark.slow
def test_cifar_distillation(folder: Path) -> None:
    shown = execute("cifar_distillation", folder)
    assert score(folder / "runs/distilled", "top1") > max(70, score(folder / "runs/alone", "top1"))
    assert "decoupled" in shown.lower()
    assert (folder / "runs/methods/table.svg").is_file()


@pytest.mark.slow
def test_glue_finetuning(folder: Path) -> None:
    execute("glue_finetuning", folder)
    assert score(folder / "runs/sst2", "accuracy") > 0.9
    check_archive(folder / "submission.zip")
    with (folder / "predictions.tsv").open(encoding="utf-8") as file:
        assert len(list(csv.reader(file, delimiter="\t"))) == 1822


@pytest.mark.slow
def test_glue_distillation(folder: Path) -> None:
    execute("glue_distillation", folder)
    assert score(folder / "runs/distilled", "accuracy") > 0.9
    check_archive(folder / "submission.zip")


@pytest.mark.slow
def test_intermediate_representations(folder: Path) -> None:
    shown = execute("intermediate_representations", folder)
    assert shown.count("'image/png'") == 5
    assert "@penultimate" in shown


@pytest.mark.slow
def test_object_detection(folder: Path) -> None:
    shown = execute("object_detection", folder)
    assert score(folder / "runs/distilled", "ap50") > 0
    assert len(list((folder / "pictures").glob("*.png"))) == 3
    assert shown.count("'image/png'") == 3


@pytest.mark.slow
def test_own_data(folder: Path) -> None:
    shown = execute("own_data", folder)
    assert score(folder / "runs/distilled", "top1") > 50
    assert (folder / "student.pt2").stat().st_size > 1000
    assert shown.count("'image/png'") == 2
