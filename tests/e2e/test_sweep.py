"""A sweep: every combination, resumed where it was stopped, the best first."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from kd_core.study import engine
from kd_core.study.study import Job
from kd_vision.cli import main

SWEEP = """
config: experiment.yaml
grid:
  - {stages.distill.epochs: [1, 2]}
  - {stages.distill.losses.ce.weight: [0.0, 1.0], stages.distill.losses.kd.weight: [1.0, 0.0]}
seeds: [3]
"""


@pytest.fixture
def sweep(config: Callable[..., Path], tmp_path: Path) -> Callable[..., Result]:
    config()

    def run(text: str = SWEEP, *options: str) -> Result:
        file = tmp_path / "sweep.yaml"
        file.write_text(text)
        return CliRunner().invoke(main, ["sweep", str(file), "--out", str(tmp_path / "runs"), *options])

    return run


def test_every_combination_is_run_and_the_best_stands_first(sweep: Callable[..., Result], tmp_path: Path) -> None:
    done = sweep(SWEEP, "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["metric"] == "top1"
    rows = told["rows"]
    assert sorted(
        (row["values"]["stages.distill.epochs"], row["values"]["stages.distill.losses.kd.weight"]) for row in rows
    ) == [
        (1, 0.0),
        (1, 1.0),
        (2, 0.0),
        (2, 1.0),
    ]
    assert all(
        row["values"]["stages.distill.losses.ce.weight"] == 1 - row["values"]["stages.distill.losses.kd.weight"]
        for row in rows
    )
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    for row in rows:
        result = json.loads((Path(row["run"]) / "result.json").read_text())
        assert row["score"] == result["best"]["metrics"]["top1"]
        assert row["metrics"] == result["metrics"]
    assert json.loads((tmp_path / "runs" / "table.json").read_text()) == rows
    head, *lines = sweep().stdout.splitlines()
    assert head.split() == ["top1", *rows[0]["values"], "run"]
    assert [line.split()[-1] for line in lines] == [row["run"] for row in rows]


def test_what_was_finished_is_not_run_again(
    sweep: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    run = engine._train

    def noted(job: Job, *rest: object) -> object:
        trained.append(job.folder.name)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return run(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "_train", noted)
    assert sweep().exit_code == 130
    stamps = {each: (tmp_path / "runs" / each / "result.json").stat().st_mtime_ns for each in ("000", "001")}
    monkeypatch.setattr(engine, "_train", run)
    assert sweep().exit_code == 0
    for each, stamp in stamps.items():
        assert (tmp_path / "runs" / each / "result.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SWEEP.replace("[0.0, 1.0]", "[0.0]"), "the values of an axis go together"),
        (SWEEP.replace("grid:", "gird:"), "unknown key 'gird'"),
        (SWEEP.replace("stages.distill.epochs", "stages.distill.epoch"), "did you mean 'epochs'?"),
        (SWEEP.replace("experiment.yaml", "no.yaml"), "no.yaml"),
        (SWEEP.replace("[1, 2]", "[]"), "grid.0.stages.distill.epochs"),
    ],
)
def test_a_wrong_sweep_is_one_error_and_runs_nothing(
    sweep: Callable[..., Result], tmp_path: Path, text: str, said: str
) -> None:
    done = sweep(text)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


def test_what_killed_processes_left_is_not_in_the_way(sweep: Callable[..., Result], tmp_path: Path) -> None:
    short, runs = SWEEP.replace("[1, 2]", "[1]"), tmp_path / "runs"
    runs.mkdir()
    (runs / ".tmp-4711").write_text("half")
    assert sweep(short).exit_code == 0
    for path in (runs / "001").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in (".tmp-4712", ".lock", ".pid"):
        (runs / "001" / name).write_text("half")
    assert sweep(short).exit_code == 0
    assert not list(runs.rglob(".tmp-*"))


def test_a_config_that_was_edited_meanwhile_is_another_sweep(
    sweep: Callable[..., Result], config: Callable[..., Path]
) -> None:
    short = SWEEP.replace("[1, 2]", "[1]").replace("[0.0, 1.0]", "[0.0]").replace("[1.0, 0.0]", "[1.0]")
    assert sweep(short).exit_code == 0
    path = config()
    path.write_text(path.read_text() + "log_every: 7\n")
    assert sweep(short).exit_code == 0
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 16"))
    done = sweep(short)
    assert done.exit_code == 2
    assert "holds another study: the config of 000 or its overrides were others" in done.stderr


@pytest.mark.slow
def test_a_sweep_may_grow(sweep: Callable[..., Result], tmp_path: Path) -> None:
    """Runs that are new have numbers after those that are there."""
    first = SWEEP.replace("[1, 2]", "[1]")
    assert sweep(first).exit_code == 0
    stamp = (tmp_path / "runs" / "001" / "result.json").stat().st_mtime_ns
    rows = json.loads(sweep(first.replace("[3]", "[4, 3]"), "--json").stdout)["rows"]
    assert sorted((row["values"]["seed"], Path(row["run"]).name) for row in rows) == [
        *((3, "000"), (3, "001")),
        *((4, "002"), (4, "003")),
    ]
    assert (tmp_path / "runs" / "001" / "result.json").stat().st_mtime_ns == stamp


def test_a_folder_that_holds_something_else_is_left_alone(sweep: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine.txt").write_text("mine")
    done = sweep()
    assert done.exit_code == 2
    assert "is not empty and does not hold a study" in done.stderr


def test_check_takes_a_sweep(config: Callable[..., Path], tmp_path: Path) -> None:
    config()
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.stdout.splitlines()[0] == f"{file}: ok"
    file.write_text(SWEEP.replace("[1.0, 0.0]", "[1.0, -]"))
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 2
    assert "stages.distill.losses.kd.weight" in done.stderr
