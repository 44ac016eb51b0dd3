"""Whatever the files of a run have become, a command says it in one message: no traceback, exit code 2."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from kd_core.experiment import Experiment
from kd_core.observers import Observer, StepEvent
from kd_vision.cli import main

from .conftest import watched

CONFIG = """
task: image_classification
data: {name: digits, limit: 40, augment: none}
models:
  student: {arch: cnn, width: 2, depth: 1}
observers: {gradient_norms: {every_steps: 1}}
stages:
  train:
    epochs: 2
    batch_size: 16
    ema: 0.9
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.AdamW {lr: 0.05}
    scheduler: {call: !call:torch.optim.lr_scheduler.StepLR {step_size: 1}, interval: epoch}
"""
ODD: list[Any] = [None, True, -1, 10**30, 1.5, float("nan"), "", "x", "\udcff", [], [1], {}, {"a": 1}]


class Stop(Exception):
    pass


class Stopper(Observer):
    def after_step(self, event: StepEvent) -> None:
        if event.total == 5:
            raise Stop


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped and a finished run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    (folder / "config.yaml").write_text(CONFIG)
    with watched(Stopper()), pytest.raises(Stop):
        Experiment.load(folder / "config.yaml").train(folder / "stopped")
    Experiment.load(folder / "config.yaml").train(folder / "finished")
    return folder


def mutated(value: Any, chance: random.Random) -> Any:
    """A nesting of plain values and tensors in which one thing is another one, is gone, or is new."""
    value = copy.deepcopy(value)
    holder, key = chance.choice(list(places(value)))
    kind = chance.randrange(3)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder[key], Tensor):
        holder[key] = chance.choice([torch.zeros(3), holder[key].double(), holder[key].flatten()[:1], torch.tensor(7)])
    else:
        holder[key] = chance.choice(ODD)
    return value


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a nesting."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def damage_json(path: Path, chance: random.Random) -> None:
    path.write_text(json.dumps(mutated(json.loads(path.read_text()), chance)))


def damage_lines(path: Path, chance: random.Random) -> None:
    lines = path.read_text().splitlines()
    number = chance.randrange(len(lines))
    lines[number] = chance.choice(["{", "[]", "7", "", json.dumps(mutated(json.loads(lines[number]), chance))])
    path.write_text("\n".join(lines) + "\n")


def damage_checkpoint(path: Path, chance: random.Random) -> None:
    """Another content with the digest that belongs to it."""
    state = torch.load(path, weights_only=True)
    content = io.BytesIO()
    torch.save(chance.choice([None, mutated(state, chance), mutated(state, chance), state["models"]]), content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:16]
    path.with_name(f"step-00000009-{digest}.pt").write_bytes(content.getvalue())
    path.unlink()


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 20))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path.write_bytes(content)


def make_empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def make_binary(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"\xff\xfe\x00" + path.read_bytes())


def make_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def remove(path: Path, chance: random.Random) -> None:
    path.unlink()


def make_deep(path: Path, chance: random.Random) -> None:
    path.write_text("[" * 100_000)


Damage = Callable[[Path, random.Random], None]
ANY: list[Damage] = [truncate, flip, make_empty, make_binary, make_folder, remove, make_deep]
FILES: dict[str, list[Damage]] = {
    "config.yaml": ANY,
    "manifest.json": [*ANY, *[damage_json] * 10],
    "result.json": [*ANY, *[damage_json] * 10],
    "metrics.jsonl": [*ANY, *[damage_lines] * 3],
    "steps.jsonl": [*ANY, *[damage_lines] * 3],
    "classes.json": [*ANY, *[damage_json] * 3],
    "gradients.jsonl": [*ANY, *[damage_lines] * 5],
    "log.txt": [make_folder, make_binary],
    ".pid": ANY,
    ".lock": [make_folder, remove],
    "README.md": [make_folder, remove],
    "checkpoints/step-*": [*ANY, *[damage_checkpoint] * 30],
    "checkpoints/best-*": ANY,
    "student/model.yaml": ANY,
    "student/model.safetensors": ANY,
    "student/lineage.json": ANY,
}


def damaged(runs: Path, folder: Path, chance: random.Random) -> tuple[Path, str]:
    """A copy of one of the runs with one of its files damaged, and what was done."""
    run = folder / "run"
    shutil.copytree(runs / chance.choice(["stopped", "finished"]), run)
    files = [(name, path) for name in FILES for path in sorted(run.glob(name))[-1:]]
    name, path = chance.choice(files)
    damage = chance.choice(FILES[name])
    if damage in (truncate, flip) and not path.stat().st_size:
        damage = remove
    damage(path, chance)
    return run, f"{damage.__name__} {name}"


@pytest.mark.parametrize("seed", [*range(8), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(8, 500))])
def test_no_damage_ends_in_a_traceback(seed: int, runs: Path, tmp_path: Path) -> None:
    run, done = damaged(runs, tmp_path, random.Random(seed))
    report = ["report", str(run), "--out", str(tmp_path / "report.html"), "--worst", "1"]
    for arguments in (report, ["eval", str(run)], ["resume", str(run)], ["resume", str(run), "--accept-changes"]):
        answer = CliRunner().invoke(main, arguments)
        assert answer.exception is None or isinstance(answer.exception, SystemExit), (done, arguments)
        assert answer.exit_code in (0, 2), (done, arguments)
        assert answer.exit_code == 0 or answer.stderr.strip(), (done, arguments)
