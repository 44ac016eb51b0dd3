"""docs/tutorial.md, followed to the letter in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kd_core.experiment import Experiment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, and what it takes of this repository."""
    path = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(ROOT / "configs" / "glue" / "example", path / "configs" / "glue" / "example")
    for language, text in BLOCKS:
        if language in ("python", "yaml"):
            file = path / text.partition("\n")[0].removeprefix("# ")
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, tuple[int, str]]:
    """Exit code and output of every command, run in one process and in the order of the page."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("follow.py")), "--in-order"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        input=json.dumps(COMMANDS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outputs: dict[str, tuple[int, str]] = json.loads(done.stdout.splitlines()[-1])
    return outputs


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works(answers: dict[str, tuple[int, str]], command: str) -> None:
    code, output = answers[command]
    assert code == 0, output


@pytest.mark.parametrize(
    ("run", "metric", "least"),
    [("images_student", "top1", 60), ("texts_student", "accuracy", 0.8), ("masks_student", "miou", 50)],
)
def test_the_student_learns(
    answers: dict[str, tuple[int, str]], folder: Path, run: str, metric: str, least: float
) -> None:
    assert answers
    result = json.loads((folder / "runs" / run / "result.json").read_text(encoding="utf-8"))
    assert result["metrics"][metric] > least


@pytest.mark.parametrize(
    ("config", "model"),
    [
        ("my_images/teacher.yaml", "{zoo: torchvision.resnet50, num_classes: 3, new_head: true}"),
        ("my_images/teacher.yaml", "{arch: torchvision.resnet18}"),
        ("my_masks/teacher.yaml", "{zoo: torchvision.deeplabv3_resnet50, num_classes: 3, new_head: true}"),
        ("my_masks/teacher.yaml", "{arch: lraspp, backbone: mobilenet_v3_large}"),
    ],
)
def test_the_larger_models_that_the_page_names_fit(folder: Path, config: str, model: str) -> None:
    assert f"`{model}`" in PAGE
    Experiment.load(folder / config, overrides=[f"models.student={model}"]).check()


def test_images_and_predictions_are_where_the_page_says(answers: dict[str, tuple[int, str]], folder: Path) -> None:
    assert answers
    assert len((folder / "my_texts" / "predictions.tsv").read_text(encoding="utf-8").splitlines()) >= 60
    assert len(list((folder / "my_masks" / "pictures").glob("*.png"))) == 8
    assert (folder / "my_masks" / "report" / "confusion.csv").is_file()
