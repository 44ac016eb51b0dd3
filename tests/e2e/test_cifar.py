"""The CIFAR configs of resnet20 on real images: it trains, leaves its teachers alone, and goes on after SIGKILL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kd_core.config import load
from kd_core.evaluation import evaluate
from kd_core.experiment import Experiment
from kd_core.train.loop import StageRunner

from .conftest import student_bytes
from .test_resume import command, wait_for

FOLDER = Path(__file__).parents[2] / "configs" / "vision"
KD = FOLDER / "cifar10_kd_resnet20_resnet56.yaml"
CONFIGS = sorted({KD, *FOLDER.glob("cifar10_*resnet20.yaml"), *FOLDER.glob("cifar10_*resnet20_resnet*.yaml")})
"""Those of the small student: the wide and dense networks take minutes on a CPU."""

OFTEN = [KD, *(FOLDER / f"cifar10_{name}_resnet20_resnet56.yaml" for name in ("sskd", "simkd", "ft"))]
"""Those that the default suite trains: plain, with views, with an edit, of two stages."""

pytestmark = pytest.mark.realdata


def small(config: Path, data: Path, images: int = 16) -> list[str]:
    """Overrides for an epoch of few images in every stage, with teachers of random weights."""
    given = load(config).data
    first, *_ = given["stages"]
    stages = [f"stages.{name}.epochs=1" for name in given["stages"]]
    named = {
        f"{name}.{number}" if isinstance(group, list) else name: model
        for name, group in given["models"].items()
        for number, model in enumerate(group if isinstance(group, list) else [group])
    }
    models = [f"models.{name}.weights=null" for name, model in named.items() if {"zoo", "weights"} & set(model)]
    val = 8 if "candidates" in given["stages"][first] else 0  # which are compared in validation
    limits = [f"data.limit={{train: {images + val}, test: 8}}", f"data.val={val}", f"stages.{first}.batch_size=8"]
    return [f"data.root={data / 'cifar10'}", *limits, *stages, *models]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[set[str], dict[str, torch.Tensor]]]:
    """Before and after each stage: the models that it is not to train, and the state of all."""
    states: list[tuple[set[str], dict[str, torch.Tensor]]] = []

    def look(runner: StageRunner) -> None:
        models, learning = runner.context.components.models, runner.stage.learning
        state = torch.nn.ModuleDict(models).state_dict()
        states.append((set(models) - set(learning), {key: value.clone() for key, value in state.items()}))

    def looked_at(before: Callable[[StageRunner], None]) -> Callable[[StageRunner], None]:
        def looking(self: StageRunner) -> None:
            look(self)
            before(self)
            look(self)

        return looking

    monkeypatch.setattr(StageRunner, "run", looked_at(StageRunner.run))
    return states


@pytest.mark.parametrize(
    "config",
    [pytest.param(path, id=path.stem, marks=[] if path in OFTEN else pytest.mark.slow) for path in CONFIGS],
)
def test_it_trains_its_student_and_no_teacher(
    config: Path, real_data: Path, tmp_path: Path, seen: list[tuple[set[str], dict[str, torch.Tensor]]]
) -> None:
    experiment = Experiment.load(config, overrides=small(config, real_data))
    result = experiment.train(tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val" not in row] == [2] * len(experiment.plan.stages)
    assert set(result.metrics) == {"top1", "top5", "loss", "ece"}
    assert evaluate(tmp_path / "run").metrics == result.metrics
    for (frozen, before), (_, after) in zip(seen[::2], seen[1::2], strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before if key.split(".")[0] in frozen)
    student = load_file(tmp_path / "run" / "student" / "model.safetensors")
    begun = {key.removeprefix("student."): value for key, value in seen[0][1].items() if key.startswith("student.")}
    assert student.keys() == begun.keys()
    assert all(not torch.equal(student[key], begun[key]) for key in begun if begun[key].dim() == 4)


def test_killed_in_an_epoch_of_augmented_images_it_ends_the_same(real_data: Path, tmp_path: Path) -> None:
    overrides = [
        *small(KD, real_data, images=80),
        "stages.distill.epochs=2",
        "checkpoint={every_steps: 1, keep_last: 2}",
    ]
    options: list[Any] = [part for each in overrides for part in ("--set", each)]
    killed = command("train", KD, "--out", tmp_path / "killed", *options)
    wait_for(tmp_path / "killed" / "checkpoints", "step-0000000[4-9]*", killed)
    killed.kill()
    killed.communicate(timeout=60)
    assert not (tmp_path / "killed" / "result.json").exists()
    resumed = command("resume", tmp_path / "killed")
    _, errors = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, errors.decode()
    assert "stage 'distill', step" in errors.decode()
    Experiment.load(KD, overrides=overrides).train(tmp_path / "whole")
    assert student_bytes(tmp_path / "killed") == student_bytes(tmp_path / "whole")
