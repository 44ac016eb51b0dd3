"""A run's folder: made once, held by one process, whole at any moment, readable without this project."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kd_core.errors import KDError
from kd_core.files import json_text
from kd_core.runs.run_folder import RunFolder, local_folders


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create("digits_kd", 3, root=tmp_path)


@contextmanager
def disk_full(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_folder_is_named_by_config_time_and_seed(tmp_path: Path) -> None:
    paths = [RunFolder.create("digits_kd", 3, root=tmp_path).path for _ in range(3)]
    assert len(set(paths)) == 3
    for path in paths:
        assert path.parent == tmp_path / "digits_kd"
        date, time, seed, *_ = path.name.split("-")
        assert (len(date), len(time), seed) == (8, 6, "3")


def test_out_is_the_folder_itself(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    assert RunFolder.create("name", 0, out).path == out
    empty = tmp_path / "empty"
    empty.mkdir()
    assert RunFolder.create("name", 0, empty).path == empty


def test_out_that_holds_something_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(KDError, match="is not empty"):
        RunFolder.create("name", 0, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("out", ["file", "file/below"])
def test_out_that_is_or_lies_below_a_file_is_refused(tmp_path: Path, out: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KDError, match="cannot make the run folder"):
        RunFolder.create("name", 0, tmp_path / out)


def test_a_run_that_fails_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    with suppress(KDError), RunFolder.create("name", 0, tmp_path / "out") as run:
        run.write_config("task: x\n")
        raise KDError("no data")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_stays_and_so_does_what_others_put_in(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with suppress(KDError), RunFolder.create("name", 0, tmp_path / "empty") as run:
        run.write_config("task: x\n")
        raise KDError("no data")
    assert list((tmp_path / "empty").iterdir()) == []
    with suppress(KDError), RunFolder.create("name", 0, tmp_path / "new") as run:
        run.write_config("task: x\n")
        (run.path / "notes.txt").write_text("mine")
        raise KDError("no data")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["notes.txt"]
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    with suppress(KDError), RunFolder.create("name", 0, tmp_path / "link") as run:
        raise KDError("no data")
    assert (tmp_path / "link").is_dir()


@pytest.mark.parametrize("leftover", [".tmp-4711", ".lock", ".pid"])
def test_what_a_run_that_was_killed_at_its_begin_left_is_not_in_the_way(tmp_path: Path, leftover: str) -> None:
    (tmp_path / leftover).write_text("half")
    with pytest.raises(KDError, match="is not a run folder") as caught:
        RunFolder.open(tmp_path)
    assert f"`train CONFIG --out {tmp_path}`" in str(caught.value)
    with RunFolder.create("name", 0, tmp_path) as run:
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", ".pid"]


@pytest.mark.parametrize("name", ["manifest.json", "metrics.jsonl", "log.txt", "README.md", "result.json", ".pid"])
def test_a_folder_in_a_files_place_is_told_before_anything_runs(run: RunFolder, name: str) -> None:
    run.write_config("task: x\n")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).mkdir()
    with pytest.raises(KDError, match=f"{name} is not a file"):
        RunFolder.open(run.path)


@pytest.mark.parametrize(
    "result",
    [
        "",
        "[]",
        "{}",
        '{"metrics": {}}',
        '{"metrics": [], "best": null}',
        '{"metrics": {"top1": "x"}, "best": null}',
        '{"metrics": {}, "best": 3}',
        '{"metrics": {}, "best": {"metrics": null}}',
        '{"metrics": {}, "best": null, "samples": "x"}',
        '{"metrics": {}, "best": null, "split": 7}',
    ],
)
def test_a_result_of_another_shape_is_damaged(run: RunFolder, result: str) -> None:
    (run.path / "result.json").write_text(result)
    with pytest.raises(KDError, match=r"result.json is damaged"):
        run.result()


def test_a_run_that_fails_later_stays(tmp_path: Path) -> None:
    with suppress(KDError), RunFolder.create("name", 0, tmp_path / "out") as run:
        run.write_config("task: x\n")
        run.write_manifest(command="")
        raise KDError("not finite")
    with suppress(KDError), RunFolder.open(tmp_path / "out").lock() as run:
        run.manifest.unlink()
        raise KDError("weights")
    assert (tmp_path / "out" / "config.yaml").exists()


def test_what_is_no_run_folder_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="not a run folder"):
        RunFolder.open(tmp_path)
    with pytest.raises(KDError, match="is not a run folder"):
        RunFolder.open(tmp_path / "missing")


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "..", "", "a\0b", "x" * 300])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KDError, match="name"):
        RunFolder.create(name, 0, root=tmp_path / "runs")
    assert not (tmp_path / "elsewhere").exists()


HOLD = """
    import os, sys, time
    from pathlib import Path
    from kd_core.runs.run_folder import RunFolder
    run = RunFolder.open(Path(sys.argv[1])).lock()
    if sys.argv[2] == "dead":  # as the workers of a killed process see it
        (run.path / ".pid").write_text("4194305")  # above the largest process id there is
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
    (run.path / "left").touch()
"""


def holder(run: RunFolder, owner: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(HOLD), str(run.path), owner, str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_two_processes_cannot_train_in_one_folder(run: RunFolder) -> None:
    run.write_config("task: x\n")
    run.release()
    with holder(run, "alive", 60) as process:
        with pytest.raises(KDError, match=f"process .{process.pid}"):
            RunFolder.open(run.path).lock()
        process.kill()
    with RunFolder.open(run.path).lock():
        assert (run.path / ".pid").read_text() == str(os.getpid())


def test_the_lock_that_workers_of_a_dead_process_still_hold_is_waited_for(run: RunFolder) -> None:
    run.write_config("task: x\n")
    run.release()
    with holder(run, "dead", 0.5):
        assert not (run.path / "left").exists()
        RunFolder.open(run.path).lock()
        assert (run.path / "left").exists()


def test_locking_removes_what_a_killed_process_left_half_written(run: RunFolder) -> None:
    (run.path / ".tmp-4711").write_text("half")
    (run.path / ".tmp-student").mkdir()
    (run.path / ".tmp-student" / "model.safetensors").write_text("half")
    run.release()
    run.lock()
    assert sorted(each.name for each in run.path.iterdir()) == [".lock", ".pid"]


def test_the_manifest_says_on_what_the_run_ran_and_grows_with_each_resume(run: RunFolder) -> None:
    run.write_manifest(command="kd-vision train x.yaml", seed=3, data={"train": {"samples": 3}})
    manifest = json.loads(run.manifest.read_text())
    assert manifest["command"] == "kd-vision train x.yaml"
    assert manifest["seed"] == 3
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert manifest["hardware"]["threads"] == torch.get_num_threads()
    assert manifest["hardware"]["cpu"]
    assert manifest["git"] is None or len(manifest["git"]["commit"]) == 40
    run.write_manifest(command="kd-vision resume x")
    again = json.loads(run.manifest.read_text())
    assert [each["command"] for each in again.pop("resumed")] == ["kd-vision resume x"]
    assert again == manifest


def test_metrics_are_cut_back_to_a_checkpoint(run: RunFolder) -> None:
    assert run.metrics.position()["size"] == 0
    run.metrics.append({"step": 1, "loss": 0.5})
    place = run.metrics.position()["size"]
    run.metrics.append({"step": 2, "loss": math.nan})
    assert run.metrics.read() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    run.metrics.truncate_to(place)
    run.metrics.append({"step": 2, "loss": 0.25})
    assert run.metrics.read() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_no_line(run: RunFolder, cut: int) -> None:
    for step in (1, 2):
        run.metrics.append({"step": step})
    size = run.metrics.position()["size"]
    os.truncate(run.path / "metrics.jsonl", size - cut)
    assert run.metrics.read() == [{"step": 1}]
    run.metrics.truncate_to(size)  # what the checkpoint noted may not have reached the disk either
    run.metrics.append({"step": 2})
    assert run.metrics.read() == [{"step": 1}, {"step": 2}]


def test_a_full_disk_is_named(run: RunFolder) -> None:
    with disk_full(10), pytest.raises(KDError, match=r"cannot write .*metrics.jsonl: File too large"):
        run.metrics.append({"step": 123456})


def test_cutting_back_to_nothing_or_without_a_file_is_fine(run: RunFolder) -> None:
    run.metrics.truncate_to(0)
    run.metrics.append({"step": 1})
    run.metrics.truncate_to(0)
    assert run.metrics.read() == []


class Tied(nn.Module):
    """Shared weights, a view of a large storage, a non-contiguous one, a buffer, a half-precision one."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.conv = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.view = nn.Parameter(torch.rand(10_000, 4, generator=generator)[7])
        self.turned = nn.Parameter(torch.rand(3, 2, generator=generator).t())
        self.register_buffer("mean", torch.tensor(0.5, dtype=torch.float16))
        self.norm = nn.BatchNorm2d(4)


def test_the_students_weights_are_a_state_dict(run: RunFolder) -> None:
    student = Tied()
    run.export_student(student.state_dict(), "arch: tied\n")
    expected = student.state_dict()
    weights = load_file(run.student / "model.safetensors")
    assert set(weights) == set(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert all(weights[name].dtype == expected[name].dtype for name in expected)
    Tied().load_state_dict(weights)
    assert (run.student / "model.yaml").read_text() == "arch: tied\n"


def test_equal_weights_give_equal_bytes(tmp_path: Path) -> None:
    student = Tied()
    copy = Tied()
    copy.load_state_dict(student.state_dict())
    runs = [RunFolder.create("x", 0, tmp_path / name) for name in ("one", "another")]
    for run, module in zip(runs, (student, copy), strict=True):
        run.export_student(module.state_dict(), "arch: tied\n")
    one, another = (sorted(run.student.iterdir()) for run in runs)
    assert [each.name for each in one] == ["model.safetensors", "model.yaml"]
    assert [each.read_bytes() for each in one] == [each.read_bytes() for each in another]


def test_a_second_export_replaces_the_first(run: RunFolder) -> None:
    run.export_student(nn.Linear(2, 2).state_dict(), "arch: first\n")
    run.export_student(nn.Linear(3, 3).state_dict(), "arch: second\n")
    assert (run.student / "model.yaml").read_text() == "arch: second\n"
    assert load_file(run.student / "model.safetensors")["weight"].shape == (3, 3)


def test_a_full_disk_leaves_the_exported_student_as_it_was(run: RunFolder) -> None:
    run.export_student(nn.Linear(2, 2).state_dict(), "arch: first\n")
    with disk_full(10_000), pytest.raises(KDError, match="cannot write the student"):
        run.export_student(nn.Linear(100, 100).state_dict(), "arch: second\n")
    assert (run.student / "model.yaml").read_text() == "arch: first\n"
    assert not list(run.path.glob(".tmp*"))


def test_a_finished_run_has_its_result_and_a_card(run: RunFolder) -> None:
    run.write_manifest(command="kd-vision train x.yaml --seed 3")
    run.export_student(nn.Linear(2, 2).state_dict(), "arch: tiny\n")
    assert not run.finished
    facts = {"best": None, "samples": 25, "split": "validation"}
    run.finish({"metrics": {"top1": 0.84, "loss": math.inf}, **facts})
    assert run.finished
    assert run.result() == {"metrics": {"top1": 0.84, "loss": None}, **facts}
    card = run.card.read_text()
    for part in (
        "On the validation split, 25 samples:",
        "| top1 | 0.84 |",
        "arch: tiny",
        "kd-vision train x.yaml --seed 3",
        "student/model.safetensors",
    ):
        assert part in card


def test_json_is_what_every_reader_accepts() -> None:
    value = {"a": math.nan, 1: (math.inf, True, None), "t": torch.tensor([1.5, -math.inf]), "p": Path("x"), "n": 2**70}
    text = json_text(value)
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None, "1": [None, True, None], "t": [1.5, None], "p": "x", "n": 2**70,
    }  # fmt: skip


def test_local_packages_lie_beside_the_config_a_run_was_made_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create("x", 0)
    here = str(tmp_path)
    assert local_folders(run.config) == [str(run.path.resolve()), here, here]
    run.write_manifest(command="kd train", folder="/study")
    assert local_folders(run.config) == [str(run.path.resolve()), "/study", here]
    run.manifest.write_text("{", encoding="utf-8")
    assert local_folders(run.config) == [str(run.path.resolve()), here, here]
