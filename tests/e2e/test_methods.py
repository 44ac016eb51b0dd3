"""Whole methods on real images: several stages, chains of adapters, memories, views, borrowed modules.

Each is killed within each of its stages and resumed, and ends with the bytes of a run that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.evaluation import evaluate
from kd_core.experiment import Experiment, Result, resume
from kd_core.train.loop import StageRunner

from .conftest import student_bytes
from .plain_models import MODELS
from .test_processes import launch, rows
from .test_resume import train_until

HEAD = """
task: image_classification
data: {name: digits, limit: 180, augment: shift}
checkpoint: {every_steps: 3, keep_finished: 1}
models:
  teacher: &teacher
    call: &called !call:kd_vision.models.Cnn {width: 8, depth: 2}
    weights: null
  student: {arch: cnn, width: 4, depth: 2}
"""
REST = """
    optimizer: !call:torch.optim.SGD {lr: 0.02, momentum: 0.9}
"""
METHODS = {
    "factor transfer": HEAD
    + """
adapters:
  paraphraser: {module: paraphraser, inputs: teacher.layers.1, norm: true}
  translator: {module: translator, inputs: student.layers.1, match: adapters.paraphraser/factor, norm: true}
stages:
  pretrain:
    epochs: 1
    batch_size: 32
    train: [adapters.paraphraser]
    losses: {reconstruction: {loss: mse, student: adapters.paraphraser/reconstruction, teacher: teacher.layers.1}}
    optimizer: !call:torch.optim.SGD {lr: 0.02, momentum: 0.9}
  distill:
    epochs: 1
    train: [student, adapters.translator]
    losses:
      ce: {loss: cross_entropy}
      ft: {loss: factor_transfer, weight: 100, student: adapters.translator, teacher: adapters.paraphraser/factor}
""",
    "knowledge review": HEAD
    + """
adapters:
  level3: {module: fusion, inputs: student.avgpool, match: teacher.avgpool}
  level2: {module: fusion, inputs: [student.layers.1.2:in, adapters.level3/residual], match: teacher.layers.1}
  level1: {module: fusion, inputs: [student.layers.0.2:in, adapters.level2/residual], match: teacher.layers.0}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy}
      review:
        loss: hierarchical_context
        student: [adapters.level3/output, adapters.level2/output, adapters.level1/output]
        teacher: [teacher.avgpool, teacher.layers.1.2:in, teacher.layers.0.2:in]"""
    + REST,
    "crd": HEAD
    + """
adapters:
  student_embedding: {module: embedding, inputs: student.avgpool, out_features: 16}
  teacher_embedding: {module: embedding, inputs: teacher.avgpool, out_features: 16}
stages:
  distill:
    epochs: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy}
      kd: {loss: kd, temperature: 4.0}
      crd:
        loss: crd
        weight: 0.8
        student: adapters.student_embedding
        teacher: adapters.teacher_embedding
        num_samples: !run num_samples
        targets: !run targets
        dim: 16
        negatives: 64
        mode: relaxed"""
    + REST,
    "sskd": HEAD
    + """
adapters:
  teacher_head: {module: projection_head, inputs: teacher.fc:in}
  student_head: {module: projection_head, inputs: student.fc:in}
stages:
  pretrain:
    epochs: 1
    batch_size: 32
    views: rotations
    train: [adapters.teacher_head]
    losses: {contrast: {loss: view_contrast, input: adapters.teacher_head}}
    optimizer: !call:torch.optim.SGD {lr: 0.02, momentum: 0.9}
  distill:
    epochs: 1
    train: [student, adapters.student_head]
    losses:
      ce: {loss: cross_entropy}
      kd: {loss: kd, temperature: 4.0, mask: batch.original}
      tf: {loss: transformed_kd, weight: 2.7}
      ss: {loss: self_supervised_kd, weight: 10, student: adapters.student_head, teacher: adapters.teacher_head}
""",
    "simkd": HEAD.replace(
        "{arch: cnn, width: 4, depth: 2}",
        """
    arch: cnn
    width: 4
    depth: 2
    edit:
      - {insert: !call:kd_core.adapters.SimKDProjector {channels: 8, out_features: 16}, after: layers.1}
      - {replace: fc, with: !getattr:fc [*called]}""",
    )
    + """
stages:
  distill:
    epochs: 2
    batch_size: 32
    freeze: [student.fc]
    losses: {simkd: {loss: mse, student: student.layers.1.inserted, teacher: teacher.layers.1}}"""
    + REST,
    "activation boundaries": HEAD
    + """
stages:
  distill:
    method: {method: ab, pretraining_epochs: 1}
    epochs: 1
    batch_size: 32"""
    + REST,
    "prime-aware": HEAD
    + """
stages:
  distill:
    method: {method: pad_l2, warmup_epochs: 1}
    epochs: 1
    batch_size: 32"""
    + REST,
    "variational": HEAD
    + """
stages:
  distill:
    method: vid
    epochs: 2
    batch_size: 32"""
    + REST,
    "mutual learning": HEAD
    + """
stages:
  distill:
    method: {method: dml, peers: 2}
    epochs: 2
    batch_size: 32"""
    + REST,
    "confident teachers": HEAD.replace(
        """
  teacher: &teacher
    call: &called !call:kd_vision.models.Cnn {width: 8, depth: 2}
    weights: null
""",
        """
  teacher: [{arch: cnn, width: 8, depth: 2, weights: null}, {arch: cnn, width: 4, depth: 2, weights: null}]
""",
    )
    + """
stages:
  distill:
    method: ca_mkd
    epochs: 2
    batch_size: 32"""
    + REST,
    "native ensemble": HEAD
    + """
stages:
  distill:
    method: {method: one, rampup_epochs: 2}
    epochs: 2
    batch_size: 32"""
    + REST,
    "data-free": HEAD.replace("limit: 180, augment: shift", "generated: 192, val: 18")
    + """
stages:
  distill:
    method: {method: dafl, latent: 8}
    epochs: 2
    batch_size: 32
    optimizer:
      call: !call:torch.optim.SGD {lr: 0.02, momentum: 0.9}
      groups: [{params: adapters.dafl_images, call: !call:torch.optim.Adam {lr: 0.01}}]
    scheduler: !call:torch.optim.lr_scheduler.StepLR {step_size: 1}
""",
}
TEACHERS = METHODS["confident teachers"]
SLOW = {"data-free"}
every_method = pytest.mark.parametrize(
    "method", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in METHODS]
)
Config = Callable[..., Path]
Train = Callable[..., Result]


def state_of(run: Path) -> dict[str, Any]:
    newest = max((run / "checkpoints").glob("step-*"), key=lambda path: path.name)
    found: dict[str, Any] = torch.load(newest, weights_only=True)
    return found


@every_method
def test_a_killed_run_ends_like_a_whole_one(
    method: str, config: Config, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(METHODS[method], out="whole").run
    assert whole is not None
    for kill_at in (2, 8):
        run = tmp_path / f"killed-{kill_at}"
        train_until(kill_at, config(METHODS[method]), run, [], monkeypatch)
        torch.manual_seed(99)
        resume(run)
        assert student_bytes(run) == student_bytes(whole)
        for ours, theirs in zip(tensors(state_of(run)), tensors(state_of(whole)), strict=True):
            assert torch.equal(ours, theirs)


def tensors(state: dict[str, Any]) -> list[Tensor]:
    parts = (*state["adapters"].values(), *state["losses"].values())
    return [each for each in parts if isinstance(each, Tensor)]


@every_method
def test_what_learns_changes_and_nothing_else(method: str, train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of everything at each stage's beginning and end, BatchNorm statistics included."""
    before, changed = StageRunner.run, []

    def compare(self: StageRunner) -> None:
        root = self.stage.root
        first = {key: value.clone() for key, value in root.state_dict().items() if isinstance(value, Tensor)}
        before(self)
        last = root.state_dict()
        parts = {key.split(".")[0] if "adapters" not in key else ".".join(key.split(".")[:2]) for key in first}
        moved = {key for key, value in first.items() if not torch.equal(value, last[key])}
        changed.append({part for part in parts if any(key.startswith(f"{part}.") for key in moved)})

    monkeypatch.setattr(StageRunner, "run", compare)
    train(METHODS[method])
    expected = {
        "factor transfer": [{"adapters.paraphraser"}, {"student", "adapters.translator"}],
        "knowledge review": [{"student", *(f"adapters.level{level}" for level in (1, 2, 3))}],
        "crd": [{"student", "losses", "adapters.student_embedding", "adapters.teacher_embedding"}],
        "sskd": [{"adapters.teacher_head"}, {"student", "adapters.student_head"}],
        "simkd": [{"student"}],
        "activation boundaries": [{"student", "adapters.ab_connector"}, {"student"}],
        "prime-aware": [
            {"student", "adapters.pad_features"},
            {"student", "adapters.pad_features", "adapters.pad_variance"},
        ],
        "variational": [{"student", "losses"}],
        "mutual learning": [{"student", "peers_1", "peers_2"}],
        "confident teachers": [{"student", "adapters.ca_mkd_embedding"}],
        "data-free": [{"student", "adapters.dafl_images"}],
        "native ensemble": [
            {
                "student",
                "adapters.one_gate",
                *(f"adapters.one_{part}_{n}" for part in ("stage", "logits") for n in (1, 2)),
            }
        ],
    }
    assert changed == expected[method]


@pytest.mark.parametrize("name", ["aver", "ebkd", "aekd"])
def test_another_way_to_weigh_teachers_is_another_word(name: str, config: Config) -> None:
    Experiment.load(config(TEACHERS.replace("method: ca_mkd", f"method: {name}"))).check(strict=True)


def test_one_teacher_is_not_weighted(config: Config) -> None:
    with pytest.raises(KDError, match="entropy_weighted_kd needs 2 teachers or more, not 1"):
        Experiment.load(config(METHODS["mutual learning"].replace("{method: dml, peers: 2}", "ebkd"))).check()


def test_crds_memory_is_saved_and_has_the_data_sets_rows(train: Train) -> None:
    run = train(METHODS["crd"]).run
    assert run is not None
    losses = state_of(run)["losses"]
    memory = losses["crd.module.student_memory"]
    assert memory.shape == (1797, 16)  # all of digits, of which 162 train here
    of_length_one = (memory.norm(dim=1) - 1).abs() < 1e-5
    assert of_length_one.sum() == 162
    assert losses["crd.module._extra_state"] == 12


def test_simkds_student_has_its_teachers_classifier_wherever_it_goes(train: Train) -> None:
    result = train(METHODS["simkd"], "models.teacher.weights=null")
    assert result.run is not None
    again = evaluate(str(result.run))
    assert again.metrics == pytest.approx(result.metrics)


def test_views_that_are_not_there_are_named(config: Config) -> None:
    for wrong, message in (
        ("views: rotation", "did you mean 'rotations'"),
        ("views: {view: rotations, by: 2}", "rotations has no parameter 'by'"),
        ("drop_last: false", "the batch has no 'view'"),
    ):
        with pytest.raises(KDError, match=message):
            Experiment.load(config(METHODS["sskd"].replace("views: rotations", wrong))).check()


PLAIN = """
task: image_classification
data: {name: digits, limit: 205, augment: shift}
checkpoint: {keep_finished: 1}
MODELS
""".replace("MODELS\n", MODELS)


@pytest.mark.parametrize("method", ["crd", pytest.param("sskd", marks=pytest.mark.slow)])
def test_two_processes_train_what_one_does(method: str, config: Config, tmp_path: Path) -> None:
    text = PLAIN + METHODS[method].removeprefix(HEAD).replace("student.avgpool", "student.2").replace(
        "student.fc", "student.3"
    )
    path = config(text)
    Experiment.load(path).train(tmp_path / "one")
    both = launch("train", path, "--out", tmp_path / "two")
    _, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        for kind in {"train", "val"} & set(one):
            assert two[kind] == pytest.approx(one[kind], rel=1e-4)
    for one, two in zip(tensors(state_of(tmp_path / "one")), tensors(state_of(tmp_path / "two")), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
