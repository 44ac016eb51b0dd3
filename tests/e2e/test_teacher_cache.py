"""A teacher that runs once: its outputs are kept, and training on them is training with the teacher itself."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from kd_core import experiment
from kd_core.device.kernels.library import can_build
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_core.observers import Observer, StepEvent
from kd_core.taps.wrappers import Capture, Teacher
from kd_core.train import output_store
from kd_core.train.output_codec import smoothed
from kd_core.train.run import Result
from kd_vision.cli import main

from .conftest import watched

CONFIG = """
task: image_classification
data: {name: digits, augment: none, limit: 300}
models:
  student: {arch: cnn, width: 4}
  teacher: {arch: cnn, width: 8, weights: null, cache: CACHE}
stages:
  distill:
    epochs: 4
    batch_size: 32
    losses:
      ce: {loss: cross_entropy, weight: 0.5}
      kd: {loss: kd, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""


VIEWS = ("data.augment=shift", "data.augmented_views=2", "data.limit=320", "data.seed=0")  # 9 whole batches train


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))


def written(cache: bool = True) -> Path:
    path = Path(f"{cache}.yaml")
    path.write_text(CONFIG.replace("CACHE", str(cache).lower()))
    return path


def train(name: str, *overrides: str, cache: bool = True) -> Result:
    return Experiment.load(written(cache), overrides=overrides).train(Path(name))


def student(run: str) -> bytes:
    return (Path(run) / "student" / "model.safetensors").read_bytes()


def losses(run: str) -> list[float]:
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [row["train"]["kd"] for row in rows if "train" in row]


def test_losses_are_those_of_a_teacher_that_runs() -> None:
    live, kept = train("live", cache=False), train("kept")
    assert losses("kept") == pytest.approx(losses("live"), rel=1e-5)
    assert kept.metrics == pytest.approx(live.metrics, rel=1e-3)


def test_it_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train("first")
    (kept,) = output_store.kept(verify=True)
    assert (kept.records, kept.damaged, kept.views) == (270, 0, 1)
    assert kept.facts["wire"] == "teacher.output"
    monkeypatch.setattr(Teacher, "forward", None)
    train("again", "stages.distill.batch_size=16")
    assert len(output_store.kept()) == 1


@pytest.mark.slow
def test_other_weights_or_samples_are_other_outputs() -> None:
    changes = ["seed=1", "data.limit=200", "models.teacher.width=16"]
    if can_build():
        changes.append("runtime={cpu_kernels: [teacher]}")
    for number, change in enumerate(changes):
        train(f"run{number}", change)
        assert len(list(Path("cache/outputs").iterdir())) == number + 1


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


DAMAGES = {
    "cut": lambda content: content[:-9],
    "empty": lambda content: b"",
    "the last bits": lambda content: flipped(content, len(content) - 1),
    "the first bits": lambda content: flipped(content, len(content) - len(content.lstrip(b"\0"))),  # after the holes
    "zeros": lambda content: bytes(len(content)),
    "longer": lambda content: content + b"x" * 1000,
}


def folder(count: int = 1) -> list[Path]:
    folders = sorted(Path("cache/outputs").iterdir())
    assert len(folders) == count
    return folders


def test_what_is_damaged_is_made_anew() -> None:
    train("first")
    whole = {path.name: path.read_bytes() for path in folder()[0].iterdir()}
    assert sorted(path.rpartition(".")[2] for path in whole) == ["json", "rows", "view"]
    for number, (name, damage) in enumerate(itertools.product(whole, DAMAGES)):
        (folder()[0] / name).write_bytes(DAMAGES[damage](whole[name]))
        if number % 4 == 1:
            train(f"again-{number}")
            assert (folder()[0] / "0000.view").read_bytes()[: len(whole["0000.view"])] == whole["0000.view"]
            assert losses(f"again-{number}") == losses("first")


def test_a_folder_that_disappears_or_a_full_disk_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    train("live", *VIEWS, cache=False)

    class Remover(Observer):
        def after_step(self, event: StepEvent) -> None:
            shutil.rmtree("cache/outputs", ignore_errors=True)

    with watched(Remover()):
        train("removed", *VIEWS)
    monkeypatch.setattr(output_store._View, "write", _full)
    train("full", *VIEWS)
    assert student("live") == student("removed") == student("full")
    told = Path("full/log.txt").read_text()
    assert told.count("No space left on device; nothing more is kept, and the model runs instead") == 1


def _full(*args: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_stopped_run_goes_on_to_the_same_end() -> None:
    train("whole", "checkpoint.every_steps=5")

    class Stopper(Observer):
        def after_step(self, event: StepEvent) -> None:
            if event.total == 13:
                raise KeyboardInterrupt

    with watched(Stopper()), pytest.raises(KeyboardInterrupt):
        train("part", "checkpoint.every_steps=5")
    experiment.resume(Path("part"))
    assert student("part") == student("whole")


def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many samples the teacher runs on from here on, in each of its passes."""
    counts = []
    forward = Teacher.forward

    def counted(self: Teacher, inputs: torch.Tensor) -> Capture:
        counts.append(len(inputs))
        return forward(self, inputs)

    monkeypatch.setattr(Teacher, "forward", counted)
    return counts


def test_a_sample_in_a_view_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train("live", *VIEWS, cache=False)
    counts = ran(monkeypatch)
    train("kept", *VIEWS)
    assert student("live") == student("kept")
    assert sum(counts) == 2 * -(-270 // 32) * 32
    counts.clear()
    Experiment.load(written(False)).train(Path("teacher"))
    published = "models.teacher={run: teacher, cache: true}"
    train("first", *VIEWS, published)
    counts.clear()
    train("again", *VIEWS, published, "seed=3", "models.student.width=6")
    assert not counts
    train("more", *VIEWS, "data.augmented_views=3")
    assert sum(counts) == 288  # the first two views are those of before
    assert student("more") != student("kept")


@pytest.mark.slow
def test_features_and_parameters_are_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    hint = "stages.distill.losses.hint={loss: mse, student: student.layers.1, teacher: teacher.layers.1}"
    same = (*VIEWS, hint, "models.student.width=8")
    train("live", *same, cache=False)
    train("kept", *same)
    assert student("live") == student("kept")
    train("halved", *same, "models.teacher.cache={dtype: bfloat16}")
    assert losses("halved") == pytest.approx(losses("live"), rel=1e-2)
    counts = ran(monkeypatch)
    train("kd", *VIEWS, "models.student.width=8")  # the logits are there
    assert not counts


@pytest.mark.slow
def test_the_largest_are_kept_and_the_rest_is_smooth() -> None:
    train("live", *VIEWS, cache=False)
    train("kept", *VIEWS, "models.teacher.cache={top_k: 9}")
    assert losses("kept") == pytest.approx(losses("live"), rel=0.05)
    train("fewer", *VIEWS, "models.teacher.cache={top_k: 2}")
    assert student("kept") != student("fewer") != student("live")
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    smooth = smoothed(*logits.log_softmax(1).topk(2), 4).softmax(1)
    expected = logits.softmax(1)
    assert torch.allclose(smooth[:, :2], expected[:, :2])
    assert torch.allclose(smooth[:, 2:], expected[:, 2:].mean().expand(1, 2))


def test_a_stopped_run_with_views_goes_on_to_the_same_end() -> None:
    train("whole", *VIEWS, "checkpoint.every_steps=5", cache=False)

    class Stopper(Observer):
        def after_step(self, event: StepEvent) -> None:
            if event.total == 13:
                raise KeyboardInterrupt

    with watched(Stopper()), pytest.raises(KeyboardInterrupt):
        train("part", *VIEWS, "checkpoint.every_steps=5")
    experiment.resume(Path("part"))
    assert student("part") == student("whole")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("data.augment=shift", "training samples differ from epoch to epoch"),
        ("stages.distill.views=rotations", "the views of the stage 'distill' are made after what is kept"),
    ],
)
def test_samples_that_change_are_refused(change: str, says: str) -> None:
    with pytest.raises(KDError, match=says):
        train("run", change)


def test_room_is_made_and_what_has_none_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    train("old")
    size = output_store.kept()[0].bytes / 1e6
    monkeypatch.setenv("KD_CACHE_LIMIT", f"{2 * size:.3f} MB")
    train("new", "seed=1")
    assert len(output_store.kept()) == 2
    train("newest", "seed=2")
    assert len(output_store.kept()) == 2
    monkeypatch.setenv("KD_CACHE_LIMIT", "1 KB")
    train("none", "seed=3")
    assert not output_store.kept()
    assert "and there is room for 1e-06; the model runs for what is not kept" in Path("none/log.txt").read_text()
    monkeypatch.setenv("KD_CACHE_LIMIT", "much")
    with pytest.raises(KDError, match="KD_CACHE_LIMIT is 'much', which is not a size"):
        train("wrong", "seed=4")


def test_what_is_kept_is_listed_verified_and_removed() -> None:
    def said(*words: str) -> str:
        done = CliRunner().invoke(main, ["cache", *words])
        assert done.exit_code == (2 if words == ("prune",) else 0), done.output
        return done.output

    assert said("list") == "nothing is kept\n"
    train("run")
    train("other", "seed=1")
    view = sorted(folder(2)[0].glob("*.view"))[0]
    view.write_bytes(flipped(view.read_bytes(), view.stat().st_size - 1))
    rows = json.loads(said("verify", "--json"))
    assert sorted((row["records"], row["damaged"]) for row in rows) == [(269, 1), (270, 0)]
    assert {row["wire"] for row in rows} == {"teacher.output"}
    assert "teacher.output" in said("list")
    assert "say what to remove" in said("prune")
    assert "would be removed" in said("prune", "--all", "--dry-run")
    assert len(json.loads(said("list", "--json"))) == 2
    assert "nothing is kept\n0 MB were removed" in said("prune", "--unused", "1")
    said("prune", "--to", "0")
    assert said("list") == "nothing is kept\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("models.student.cache=true", "caches the outputs of a frozen model, and this model changes in training"),
        ("models.teacher.trainable=true", "caches the outputs of a frozen model, and this model changes in training"),
        ("models.teacher.cache=1", "must be true or false"),
    ],
)
def test_what_cannot_be_kept_is_told_by_a_check(change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.load(written(), overrides=[change]).check()
    assert says in str(caught.value)


def test_a_folder_that_another_run_is_about_to_describe_stays() -> None:
    folder = Path("cache/outputs/made-up")
    folder.mkdir(parents=True)
    store = output_store.OutputStore(folder, {})
    assert store.fault is None
    layout = output_store.Layout((output_store.Part("float32", (2,)),), 0)
    output_store.OutputStore(folder, {}).write(0, torch.tensor([3]), layout, [torch.ones(1, 2)])
    [read], there = store.read(0, torch.tensor([3, 4]))
    assert there.tolist() == [True, False]
    assert read[0].tolist() == [1.0, 1.0]
    (folder / output_store.DESCRIPTION).unlink()
    assert output_store.OutputStore(folder, {}).fault is not None
    assert not folder.exists()


@pytest.mark.slow
def test_students_that_train_at_once_fill_one_cache_and_share_it() -> None:
    Experiment.load(written(False)).train(Path("teacher"))
    values = (*VIEWS, "models.teacher={run: teacher, cache: true}")
    settings = [option for value in values for option in ("--set", value)]
    command = [sys.executable, "-m", "kd_vision", "train", str(written())]
    students = [
        subprocess.Popen([*command, "--out", f"shared {seed}", "--seed", str(seed), *settings], env=os.environ)
        for seed in (1, 2)
    ]
    assert [each.wait(timeout=300) for each in students] == [0, 0]
    [kept] = output_store.kept(verify=True)
    assert (kept.records, kept.damaged, kept.views) == (2 * 288, 0, 2)
    for seed in (1, 2):
        train(f"alone {seed}", *VIEWS, "models.teacher={run: teacher}", f"seed={seed}", cache=False)
        assert student(f"shared {seed}") == student(f"alone {seed}")


POOLED = (
    *VIEWS,
    "stages.distill.losses.hint={loss: mse, student: student.layers.1, teacher: teacher.layers.1}",
    "stages.distill.losses.hint.student=adapters.cells",
    "adapters.cells={module: pool, inputs: [student.layers.1], match: teacher.layers.1}",
    "models.student.width=8",
    *("data.augmented_views=1", "data.limit=64", "stages.distill.epochs=2"),  # the second pass reads
    "models.teacher.cache={pool: 2, dtype: bfloat16}",
)


def test_pooled_maps_that_are_read_are_those_of_a_teacher_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    train("kept", *POOLED)
    assert len(output_store.kept()) == 2
    with monkeypatch.context() as patch:
        patch.setenv("KD_CACHE", "elsewhere")
        patch.setenv("KD_CACHE_LIMIT", "1KB")  # nothing is kept, and the teacher runs in each epoch
        train("live", *POOLED)
    assert student("live") == student("kept")
    monkeypatch.setattr(Teacher, "forward", None)
    train("again", *POOLED)
    assert student("again") == student("kept")


@pytest.mark.slow
def test_pooled_records_are_shared_mended_and_apart_from_those_of_another_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    train("whole", *POOLED)
    for view in Path("cache/outputs").glob("*/*.view"):
        view.write_bytes(flipped(view.read_bytes(), view.stat().st_size - 1))
    assert [kept.damaged for kept in output_store.kept(verify=True)] == [1, 1]
    train("mended", *POOLED)
    assert student("mended") == student("whole")
    assert not any(kept.damaged for kept in output_store.kept(verify=True))
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "forward", None)
        train("deeper", *POOLED, "models.student.depth=3")
    train("coarser", *POOLED, "models.teacher.cache={pool: 1, dtype: bfloat16}")
    train("maps", *POOLED, "models.teacher.cache={dtype: bfloat16}")
    assert len(output_store.kept()) == 6
    assert len({student(run) for run in ("whole", "coarser", "maps")}) == 3


def test_maps_that_pooling_does_not_fit_are_told() -> None:
    small = [*POOLED[:-1], "models.teacher.cache={pool: 99}"]
    with pytest.raises(ConfigError, match="smaller than 99 x 99 cells"):
        Experiment.load(written(), overrides=small).check()
    misfit = [each for each in POOLED if "cells" not in each]
    with pytest.raises(ConfigError, match=r"2, 2"):
        Experiment.load(written(), overrides=misfit).check()
