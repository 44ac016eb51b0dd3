"""Candidates: the best of the student and models like it is what a run saves, and nothing else may be one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.check.verifier import verify
from kd_core.config import Policy, dump
from kd_core.data.batch import STUDENT
from kd_core.errors import ConfigError
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.run_folder import RunFolder
from kd_core.train import evaluate
from kd_core.train.components import Components
from kd_core.train.run import Result, run

Planned = Callable[..., Plan]
STAGE = "stages.distill"
LOSSES = """{
  ce: {loss: cross_entropy, weight: 0},
  one: {loss: cross_entropy, student: peers_1.output},
  two: {loss: cross_entropy, weight: 0, student: peers_2.output},
}"""
LAZY_STUDENT = (
    "models.peers={init_from: student, copies: 2, trainable: true}",
    "data.samples=80",
    f"{STAGE}.epochs=1",
    f"{STAGE}.candidates=[peers]",
    f"{STAGE}.losses={LOSSES}",
)
"""Only ``peers_1`` learns anything."""


def train(plan: Plan, path: Path) -> tuple[Result, RunFolder]:
    folder = RunFolder.create(plan.name, plan.seed, path)
    folder.write_config(dump(plan.document.data))
    return run(plan, Policy(), folder, resumed=False), folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Components]:
    """The components of each run, once it is built."""
    kept: list[Components] = []
    init = Components.__init__

    def keep(self: Components, *args: Any) -> None:
        init(self, *args)
        kept.append(self)

    monkeypatch.setattr(Components, "__init__", keep)
    return kept


def test_the_best_of_all_in_validation_is_the_student(
    planned: Planned, tmp_path: Path, built: list[Components], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    read = evaluate._own_batches
    monkeypatch.setattr(evaluate, "_own_batches", lambda split, size: passes.append(len(split)) or read(split, size))
    result, folder = train(planned(*LAZY_STUDENT), tmp_path / "run")
    assert len(passes) == 2  # validation, in which three models are scored, and the test
    assert result.best is not None
    assert result.best["model"] == "peers_1"
    scores = result.best["metrics"]
    assert scores["accuracy"] == scores["peers_1/accuracy"] > scores["student/accuracy"]
    models = built[0].models
    for key, weight in models["peers_1"].state_dict().items():
        assert torch.equal(models[STUDENT].state_dict()[key], weight)
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {"student/accuracy", "peers_2/accuracy"} <= set(lines[-1]["val"])


def test_without_candidates_the_student_is_saved(planned: Planned, tmp_path: Path, built: list[Components]) -> None:
    result, _ = train(planned(*LAZY_STUDENT, f"{STAGE}.candidates=[]"), tmp_path / "run")
    assert result.best is not None
    assert set(result.best) == {"metrics", "stage", "epoch"}
    models = built[0].models
    assert not torch.equal(models[STUDENT].state_dict()["0.weight"], models["peers_1"].state_dict()["0.weight"])


UNFIT = {
    "models.peers.trainable=false": "does not learn",
    "models.peers={call: !call:torch.nn.Linear [3, 2], copies: 2, trainable: true}": "other names or shapes",
    "models.peers.input={scale: 2.0}": "its input is another",
}


@pytest.mark.parametrize("override", UNFIT)
def test_what_is_unlike_the_student_is_refused_before_and_in_a_check(
    planned: Planned, tmp_path: Path, override: str
) -> None:
    plan = planned(*LAZY_STUDENT, override)
    with pytest.raises(ConfigError, match=UNFIT[override]):
        train(plan, tmp_path / "run")
    assert any(UNFIT[override] in problem.message for problem in verify(plan, Policy())[0])


def test_without_a_validation_split_there_is_nothing_to_compare(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="candidates are compared in validation"):
        train(planned(*LAZY_STUDENT, "data.samples=3"), tmp_path / "run")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([f"{STAGE}.candidates=[pears]"], "there is no model 'pears'"),
        ([f"{STAGE}.candidates=[student]"], "the student needs no naming"),
        ([f"{STAGE}.ema=0.9"], "cannot be used with `ema`"),
    ],
)
def test_names_and_averages_that_do_not_fit(
    planner: Callable[..., Planner], overrides: list[str], message: str
) -> None:
    made = planner(*LAZY_STUDENT, *overrides)
    made.plan()
    assert [message in problem.message for problem in made.problems] == [True]
