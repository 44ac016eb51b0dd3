"""Edits that read other models: shared classifiers, adapters whose widths are found, and what a run writes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kd_core.adapters import FeatureExpansion
from kd_core.check.findings import Findings
from kd_core.check.models import DryModels
from kd_core.config import Policy, loads
from kd_core.errors import KDError, Unverified
from kd_core.evaluation import evaluate
from kd_core.experiment import Experiment

CONFIG = """
task: image_classification
data: {name: digits, limit: 48, augment: none, workers: 0}
models:
  student: STUDENT
  teacher: TEACHER
stages:
  distill:
    steps: 2
    batch_size: 16
    METHOD
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""
CE = "losses: {ce: {loss: cross_entropy}}"
SIMKD = "method: simkd"
INFERRED = "!call:torchvision.models.resnet18 {num_classes: 10}"
GREY = "{replace: conv1, with: !call:torch.nn.Conv2d [1, 64, 3]}"


def planned(
    method: str = CE,
    student: str = "{arch: cnn, width: 4}",
    teacher: str = "{arch: cnn, width: 6, weights: null}",
) -> Experiment:
    text = CONFIG.replace("STUDENT", student).replace("METHOD", method).replace("TEACHER", teacher)
    return Experiment.planned(loads(text), Policy())


def edited(*edits: str) -> str:
    return f"{{arch: cnn, width: 4, edit: [{', '.join(edits)}]}}"


def inserted(module: str) -> str:
    return edited(f"{{insert: {module}, after: '@last_map'}}")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "student" / "model.safetensors")


@pytest.mark.parametrize(
    "student",
    [
        "{arch: cnn, width: 4}",
        pytest.param("!call:kd_vision.models.Cnn {width: 4, num_classes: 10}", marks=pytest.mark.slow),
    ],
)
def test_simkds_student_is_made_again_without_its_teacher(student: str, tmp_path: Path) -> None:
    result = planned(SIMKD, student).train(tmp_path / "run")
    description = (tmp_path / "run" / "student" / "model.yaml").read_text()
    assert "teacher" not in description
    assert "kd_core.adapters.shaped" in description
    assert evaluate(str(tmp_path / "run")).metrics == pytest.approx(result.metrics)
    assert weights(tmp_path / "run")["simkd_classifier.weight"].shape == (10, 24)
    taken = planned(student=f"{{run: {tmp_path / 'run'}}}").train(tmp_path / "again")
    assert set(weights(tmp_path / "again")) == set(weights(tmp_path / "run"))
    assert 0 <= taken.metrics["top1"] <= 100


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (inserted("{module: feature_expansion, match: peer.@last_map}"), "there is no model 'peer'"),
        (inserted("{module: feature_expansio}"), "did you mean 'feature_expansion'"),
        (inserted("{module: feature_expansion, part: 2}"), "no parameter 'part'"),
        (inserted("{module: feature_expansion, each: true}"), "unknown key 'each'"),
        (inserted("{match: teacher.@last_map}"), "module"),
        (edited("{replace: fc, with: teacher.layers}"), "is a Sequential, and only a torch.nn.Linear is shared"),
        (edited("{replace: fc, with: teacher.output}"), "is not the path of a module"),
        (inserted("{module: feature_expansion, match: batch.target}"), "is not a place in a model"),
        (inserted("simkd_projector"), "simkd_projector has no output width"),
        (inserted("{module: feature_expansion, match: teacher.layrs}"), "has no module 'layrs'"),
    ],
)  # fmt: skip
def test_what_an_edit_cannot_read_is_told(student: str, message: str) -> None:
    with pytest.raises(KDError, match=message):
        planned(student=student).check()


def test_models_whose_edits_read_each_other_are_refused() -> None:
    teacher = "{arch: cnn, width: 6, weights: null, edit: [{replace: fc, with: student.fc}]}"
    with pytest.raises(KDError, match=r"its edits read '(student|teacher)', and the edits of that read"):
        planned(student=edited("{replace: fc, with: teacher.fc}"), teacher=teacher).check()


def test_a_model_that_tells_no_landmarks_is_run_for_them() -> None:
    student = f"{{call: {INFERRED}, edit: [{GREY}]}}"
    experiment = planned("method: norm", student)
    assert experiment.check(strict=True) == []
    models = DryModels(experiment.plan, Policy(), Findings(experiment.plan))
    models.build()
    (expansion,) = (part for part in models.built["student"].modules() if isinstance(part, FeatureExpansion))
    assert expansion.expand[0].weight.shape == (8 * 24, 512, 1, 1)


def test_edits_of_config_and_methods_add_up() -> None:
    experiment = planned("methods: [norm, {method: kd, weight: 0.5}]", edited("{freeze: fc}"))
    kinds: list[Any] = [next(iter(edit)) for edit in experiment.plan.models["student"].edit]
    assert kinds == ["freeze", "insert"]


def test_a_trained_classifier_is_shared_with_its_values(tmp_path: Path) -> None:
    planned().train(tmp_path / "teacher")
    planned(SIMKD, teacher=f"{{run: {tmp_path / 'teacher'}}}").train(tmp_path / "run")
    taught, learned = weights(tmp_path / "teacher"), weights(tmp_path / "run")
    assert torch.equal(taught["fc.weight"], learned["simkd_classifier.weight"])
    assert torch.equal(taught["fc.bias"], learned["simkd_classifier.bias"])


def test_a_config_whose_edits_read_a_teacher_is_scored_as_a_run(tmp_path: Path) -> None:
    planned().train(tmp_path / "run")
    weights_of_run = tmp_path / "run" / "student" / "model.safetensors"
    config = tmp_path / "config.yaml"
    student = f"{{arch: cnn, width: 4, weights: {weights_of_run}, edit: [{{replace: fc, with: teacher.fc}}]}}"
    config.write_text(
        CONFIG.replace("STUDENT", student).replace("METHOD", CE).replace("TEACHER", "{arch: cnn, weights: null}")
    )
    with pytest.raises(KDError, match="only training builds both"):
        evaluate(str(config))


def test_edits_on_data_whose_shape_only_reading_tells_are_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = planned(SIMKD)

    def unknown(*_: Any, **__: Any) -> Any:
        raise Unverified("the shape is not known", path="data")

    monkeypatch.setattr(type(experiment.plan.task), "dummy_batch", unknown)
    assert any("the shape is not known" in line for line in experiment.check())
