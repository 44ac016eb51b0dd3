"""A teacher that runs once: its outputs are kept, and training on them is training with the teacher itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file, save

from kd_core import experiment
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_core.observers import Observer, StepEvent
from kd_core.taps.wrappers import Teacher
from kd_core.train.run import Result
from kd_core.train.teacher_cache import CHECKSUM, _checksum, _read

from .conftest import watched

CONFIG = """
task: image_classification
data: {name: digits, augment: none, limit: 300}
models:
  student: {arch: cnn, width: 4}
  teacher: {arch: cnn, width: 8, weights: null, cache: CACHE}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy, weight: 0.5}
      kd: {loss: kd, temperature: 4.0}
    optimizer: !call:torch.optim.SGD {lr: 0.05, momentum: 0.9}
"""


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


def losses(run: str) -> list[float]:
    rows = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [row["train"]["kd"] for row in rows if "train" in row]


def test_losses_are_those_of_a_teacher_that_runs() -> None:
    live, kept = train("live", cache=False), train("kept")
    assert losses("kept") == pytest.approx(losses("live"), rel=1e-5)
    assert kept.metrics == pytest.approx(live.metrics, rel=1e-3)


def test_it_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train("first")
    (file,) = Path("cache/outputs").iterdir()
    tensors = load_file(file)
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {"output": (270, 10), "index": (270,)}
    monkeypatch.setattr("kd_core.train.teacher_cache._computed", None)
    monkeypatch.setattr(Teacher, "forward", None)
    train("again", "stages.distill.batch_size=16")
    assert [file] == list(Path("cache/outputs").iterdir())


def test_other_weights_or_samples_are_other_outputs() -> None:
    for number, change in enumerate(("seed=1", "data.limit=200", "models.teacher.width=16")):
        train(f"run{number}", change)
        assert len(list(Path("cache/outputs").iterdir())) == number + 1


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]


def rewritten(content: bytes, checksum: bool = True, **changed: torch.Tensor) -> bytes:
    """The file with other tensors, whose checksum is right where it is asked for."""
    tensors = {**load(content), **changed}
    return save(tensors, {CHECKSUM: _checksum(tensors)} if checksum else None)


INDICES = torch.arange(270)
DAMAGES = {
    "cut": lambda content: content[:-9],
    "empty": lambda content: b"",
    "a bit of an output": lambda content: flipped(content, len(content) // 2),
    "a bit of the header": lambda content: flipped(content, 60),
    "without a checksum": lambda content: rewritten(content, checksum=False),
    "a huge row": lambda content: rewritten(content, index=INDICES + 2**40),
    "a negative row": lambda content: rewritten(content, index=INDICES - 1),
    "a row twice": lambda content: rewritten(content, index=INDICES // 2),
    "rows of another type": lambda content: rewritten(content, index=INDICES.float()),
    "fewer samples": lambda content: rewritten(content, index=INDICES[:9], output=torch.zeros(9, 10)),
    "fewer outputs": lambda content: rewritten(content, output=torch.zeros(9, 10)),
    "an output without rows": lambda content: rewritten(content, output=torch.tensor(1.0)),
}


def test_a_damaged_file_is_made_anew() -> None:
    train("first")
    (file,) = Path("cache/outputs").iterdir()
    whole = file.read_bytes()
    for number, (damage, damaged) in enumerate(DAMAGES.items()):
        file.write_bytes(damaged(whole))
        assert _read(file, [()], 270)[0] is None, damage
        if number % 6 == 2:
            train(f"again-{number}")
            assert file.read_bytes() == whole
            assert losses(f"again-{number}") == losses("first")
            assert "they are made anew" in Path(f"again-{number}/log.txt").read_text()
    file.write_bytes(whole)
    assert _read(file, [()], 270)[0] is not None


def test_a_stopped_run_goes_on_to_the_same_end() -> None:
    train("whole", "checkpoint.every_steps=5")

    class Stopper(Observer):
        def after_step(self, event: StepEvent) -> None:
            if event.total == 13:
                raise KeyboardInterrupt

    with watched(Stopper()), pytest.raises(KeyboardInterrupt):
        train("part", "checkpoint.every_steps=5")
    experiment.resume(Path("part"))
    students = [(Path(run) / "student" / "model.safetensors").read_bytes() for run in ("part", "whole")]
    assert students[0] == students[1]


@pytest.mark.parametrize("change", ["data.augment=shift", "stages.distill.views=rotations"])
def test_samples_that_change_are_refused(change: str) -> None:
    with pytest.raises(KDError, match=r"training samples differ from epoch to epoch"):
        train("run", change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("stages.distill.losses.kd.teacher=teacher.layers.1", "teacher.layers.1 is not cached: only the model"),
        ("models.student.cache=true", "caches the outputs of a frozen model, and this model changes in training"),
        ("models.teacher.trainable=true", "caches the outputs of a frozen model, and this model changes in training"),
        ("models.teacher.cache=1", "must be true or false, not 1"),
    ],
)
def test_what_cannot_be_kept_is_told_by_a_check(change: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Experiment.load(written(), overrides=[change]).check()
    assert says in str(caught.value)
