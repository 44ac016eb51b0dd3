"""What prune takes from run folders, and what it never touches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kd_core.cli.prune import prune as command
from kd_core.errors import KDError
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.prune import DAMAGED, FINISHED, HELD, UNFINISHED, prune
from kd_core.runs.run_folder import RunFolder


def make_run(path: Path, *, finished: bool = True, config: str = "task: none\n") -> RunFolder:
    """A run of three checkpoints, a best student and one file that was never finished."""
    with RunFolder.create("run", 0, path) as run:
        run.write_config(config)
        run.write_manifest("train config.yaml", {"seed": 0})
        run.metrics.append({"step": 1})
        store = CheckpointStore(run.checkpoints)
        for step in (1, 2, 3):
            store.save({"weight": torch.zeros(100)}, step)
        store.save_best({"weight": torch.zeros(100)}, 2)
        (run.path / ".tmp-123").write_bytes(b"half")
        if finished:
            run.export_student({"weight": torch.zeros(2)}, "arch: none\n")
            run.finish({"metrics": {}, "best": None, "samples": None, "split": None})
    return run


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run_keeps_student_result_config_and_metrics(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    [surplus] = prune([run.path])
    assert surplus.state == FINISHED
    assert surplus.bytes == sum(surplus.files.values()) > 4
    left = {"config.yaml", "manifest.json", "metrics.jsonl", "result.json", "README.md"}
    left |= {"student/model.safetensors", "student/model.yaml", ".lock", ".pid"}
    assert files(run.path) == left
    assert prune([run.path])[0].files == {}


def test_a_dry_run_removes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    before = files(run.path)
    [surplus] = prune([run.path], dry_run=True)
    assert len(surplus.files) == 5
    assert files(run.path) == before


def test_the_newest_are_kept_where_asked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    prune([run.path], keep=1)
    assert [path.name[:13] for path in run.checkpoints.iterdir()] == ["step-00000003"]


def test_the_config_says_how_many_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", config="checkpoint: {keep_finished: 2}\n")
    prune([run.path])
    assert sorted(path.name[:13] for path in run.checkpoints.iterdir()) == ["step-00000002", "step-00000003"]


def test_a_run_that_can_be_resumed_loses_half_written_files_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", finished=False)
    [surplus] = prune([run.path])
    assert (surplus.state, [path.name for path in surplus.files]) == (UNFINISHED, [".tmp-123"])
    assert len(list(run.checkpoints.iterdir())) == 4


def test_a_run_that_is_held_stays_as_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RunFolder.open(run.path).lock():
        (run.path / ".tmp-9").write_bytes(b"half")
        before = files(run.path)
        [surplus] = prune([run.path])
        assert (surplus.state, surplus.files) == (HELD, {})
        assert files(run.path) == before


@pytest.mark.parametrize("damage", ["result.json", "student/model.safetensors"])
def test_checkpoints_stay_where_the_rest_may_have_to_be_made_again(tmp_path: Path, damage: str) -> None:
    run = make_run(tmp_path / "run")
    (run.path / damage).write_text("{")
    if damage.startswith("student"):
        (run.path / damage).unlink()
    [surplus] = prune([run.path])
    assert surplus.state == (DAMAGED if damage == "result.json" else FINISHED)
    assert len(list(run.checkpoints.iterdir())) == 4


def test_folders_of_runs_are_gone_through(tmp_path: Path) -> None:
    for number in ("000", "001"):
        make_run(tmp_path / "sweep" / number)
    (tmp_path / "sweep" / ".tmp-7").write_bytes(b"half")
    found = prune([tmp_path])
    assert [surplus.folder.name for surplus in found] == ["000", "001"]
    [beside, *_] = prune([tmp_path / "sweep"])
    assert [path.name for path in beside.files] == [".tmp-7"]
    assert not list((tmp_path / "sweep").rglob("*.pt"))
    assert not list((tmp_path / "sweep").rglob(".tmp-*"))


def test_what_holds_no_run_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"mine")
    with pytest.raises(KDError, match="there is no run in it"):
        prune([tmp_path])
    with pytest.raises(KDError, match="is not a folder of runs"):
        prune([tmp_path / "model.pt"])
    assert files(tmp_path) == {"model.pt"}


def test_the_command_lists_what_goes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    done = CliRunner().invoke(command, [str(run.path), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "5: checkpoints, half-written files, the best student's checkpoint" in done.output
    assert "would be removed; nothing was" in done.output
    answer = json.loads(CliRunner().invoke(command, [str(run.path), "--json"]).output)
    assert answer["bytes"] == sum(answer["folders"][0]["files"].values()) > 0
    assert CliRunner().invoke(command, []).exit_code == 2
