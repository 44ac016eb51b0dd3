"""The table of a sweep over methods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_methods.py"
SCORES = {"ce": [(80.0, 70.0), (82.0, 72.0), (84.0, 71.0)], "kd": [(90.0, 71.0), (90.0, 74.0), (93.0, 74.0)], "at": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep of three methods over three seeds, of which one has not begun."""
    points = [{"stages.distill.method": name, "seed": seed} for name in SCORES for seed in range(3)]
    (tmp_path / "sweep.json").write_text(json.dumps({"points": points, "config": ""}))
    scores = [score for name in ("ce", "kd") for score in SCORES[name]]
    for number, (validation, test) in enumerate(scores):
        run = tmp_path / f"{number:03d}"
        run.mkdir()
        result = {"metrics": {"top1": test}, "best": {"metrics": {"top1": validation}}}
        (run / "result.json").write_text(json.dumps(result))
    return tmp_path


def table(*folders: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *folders], capture_output=True, text=True, check=False)


def test_methods_are_compared_seed_by_seed(folder: Path) -> None:
    done = table(folder)
    assert done.stdout.splitlines() == [
        "| method | seeds | validation top1 | test top1 | test, more than ce |",
        "| --- | --- | --- | --- | --- |",
        "| kd | 3 | 91.00 ± 1.73 | 73.00 ± 1.73 | +2.00 ± 2.48 |",
        "| ce | 3 | 82.00 ± 2.00 | 71.00 ± 1.00 |  |",
        "",
        "Not finished: at (0 of 3 seeds).",
    ]


def test_folders_of_a_seed_each_make_one_table(folder: Path, tmp_path: Path) -> None:
    parts = []
    for seed in range(3):
        part = tmp_path / f"seed_{seed}"
        part.mkdir()
        points = [{"stages.distill.method": name, "seed": seed} for name in SCORES]
        (part / "sweep.json").write_text(json.dumps({"points": points, "config": ""}))
        for number in range(2):
            (folder / f"{number * 3 + seed:03d}").rename(part / f"{number:03d}")
        parts.append(part)
    assert table(*parts).stdout.splitlines()[2] == "| kd | 3 | 91.00 ± 1.73 | 73.00 ± 1.73 | +2.00 ± 2.48 |"


def test_a_folder_without_a_sweep_is_told(tmp_path: Path) -> None:
    done = table(tmp_path)
    assert done.returncode == 1
    assert "is not the folder of a sweep" in done.stderr
