"""An outside task with torchvision's detectors: the model's own losses, lists of images, targets of any length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.e2e.test_processes import launch

from kd_core.errors import KDError
from kd_core.experiment import Experiment, Result, resume

CONFIG = """
task: my_detection
imports: [detection_task]
data: {name: random, images: 6}
models:
  student: {arch: my_retinanet}
  teacher: {arch: my_retinanet, weights: null}
adapters:
  fit: {module: projector, inputs: student.backbone/0, match: teacher.backbone/0}
stages:
  distill:
    epochs: 1
    batch_size: 4
    losses:
      classes: {loss: identity, value: student.output/classification, mean_over: samples}
      boxes: {loss: identity, value: student.output/bbox_regression, mean_over: samples}
      pyramid: {loss: mse, student: adapters.fit, teacher: teacher.backbone/0, weight: 0.1}
    optimizer: !call:torch.optim.SGD {lr: 0.01, momentum: 0.9}
"""
TRUST = ["detection_task"]
Detect = Callable[..., Result]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The config with the task's module beside it."""
    shutil.copy(Path(__file__).with_name("detection_task.py"), tmp_path)
    path = tmp_path / "detection.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def detect(config: Path, tmp_path: Path) -> Detect:
    """Trains the config with overrides into ``tmp_path / out``."""

    def run(*overrides: str, out: str = "run") -> Result:
        return Experiment.load(config, overrides=overrides, trust=TRUST).train(tmp_path / out)

    return run


def rows(run: Path | None, kind: str) -> list[dict[str, float]]:
    assert run is not None
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line[kind] for line in lines if kind in line]


def weights(run: Path | None) -> dict[str, torch.Tensor]:
    assert run is not None
    return load_file(run / "student" / "model.safetensors")


@pytest.mark.slow
def test_check_runs_the_student_in_training_mode_and_the_teacher_in_evaluation_mode(config: Path) -> None:
    assert Experiment.load(config, trust=TRUST).check() == []
    wrong = ["stages.distill.losses.classes.value=student.output/classificatio"]
    with pytest.raises(KDError, match="did you mean 'classification'"):
        Experiment.load(config, overrides=wrong, trust=TRUST).check()


@pytest.mark.slow
def test_a_detector_is_trained_and_scored(detect: Detect) -> None:
    result = detect()
    [losses] = rows(result.run, "train")
    assert all(losses[name] > 0 for name in ("classes", "boxes", "pyramid"))
    assert result.metrics["boxes"] == 12


def test_accumulation_gives_the_gradient_of_the_whole_batch(detect: Detect) -> None:
    whole = detect("data.equal=true", "stages.distill.steps=1", "stages.distill.epochs=null", out="whole")
    parts = detect(
        "data.equal=true",
        "stages.distill.steps=1",
        "stages.distill.epochs=null",
        "stages.distill.accumulation_steps=2",
        out="parts",
    )
    one, two = weights(whole.run), weights(parts.run)
    assert rows(whole.run, "train")[0] == pytest.approx(rows(parts.run, "train")[0], rel=1e-5)
    assert all(torch.allclose(one[key], two[key], atol=1e-6) for key in one)


def test_a_stopped_run_goes_on(detect: Detect) -> None:
    result = detect("stages.distill.epochs=2", "checkpoint.keep_finished=2")
    assert result.run is not None
    whole = weights(result.run)
    (result.run / "result.json").unlink()
    max((result.run / "checkpoints").glob("step-*")).unlink()  # go back to the end of the first epoch
    resume(result.run, trust=TRUST)
    assert all(torch.equal(whole[key], value) for key, value in weights(result.run).items())


DETECTORS = """
adapters:
  truth: {module: boxes_on_maps, inputs: student.transform}
  anchors: {module: matched_anchors, inputs: [adapters.truth/boxes, adapters.truth/labels, student.anchor_generator]}
  fit: {module: projector, inputs: student.backbone, match: teacher.backbone, each: true, keep_equal: true}
  context: {module: global_context, inputs: adapters.fit, each: true}
  teacher_context: {module: global_context, inputs: teacher.backbone, each: true}
  class_features:
    module: matched_statistics
    each: true
    relu: true
    inputs: [student.head.classification_head.conv.2.-1:in:all, teacher.head.classification_head.conv.2.-1:in:all]
  class_maps: {module: teacher.head.classification_head.conv.3, inputs: adapters.class_features, each: true}
  class_logits: {module: teacher.head.classification_head.cls_logits, inputs: adapters.class_maps, each: true}
  crossed: {module: anchor_rows, inputs: adapters.class_logits, out_features: 3}
  teacher_boxes: {module: decoded_boxes, inputs: [teacher.head.regression_head, student.anchor_generator]}
  boxes: {module: decoded_boxes, inputs: [student.head.regression_head, student.anchor_generator]}
stages:
  distill:
    losses:
      pyramid: null
      fgd: {loss: fgd, student: adapters.fit, teacher: teacher.backbone, boxes: adapters.truth/fractions}
      fgd_global: {loss: mgd, weight: 5.0e-6, student: adapters.context, teacher: adapters.teacher_context}
      pkd: {loss: pkd, student: student.backbone, teacher: teacher.backbone}
      crossed:
        loss: crosskd_classes
        student: adapters.crossed
        teacher: teacher.head.classification_head
        positive: adapters.anchors/positive
        mask: adapters.anchors/mask
      crossed_boxes:
        loss: crosskd_boxes
        student: adapters.boxes
        teacher: adapters.teacher_boxes
        logits: teacher.head.classification_head
        positive: adapters.anchors/positive
        mask: adapters.anchors/mask
      kd:
        loss: kd
        student: student.head.classification_head
        teacher: teacher.head.classification_head
        dim: -1
        mask: adapters.anchors/positive
"""


def test_the_losses_of_detectors_are_checked_and_trained(config: Path, tmp_path: Path) -> None:
    more = config.with_name("more.yaml")
    more.write_text("extends: detection.yaml" + DETECTORS)
    experiment = Experiment.load(more, overrides=["stages.distill.steps=2", "stages.distill.epochs=null"], trust=TRUST)
    assert experiment.check() == []
    losses = rows(experiment.train(tmp_path / "run").run, "train")[0]
    assert all(losses[name] > 0 for name in ("fgd", "fgd_global", "pkd"))
    assert all(losses[name] >= -1e-6 for name in ("crossed", "crossed_boxes", "kd"))  # of untrained heads
    with pytest.raises(KDError, match="accumulation_steps"):
        Experiment.load(more, overrides=["stages.distill.accumulation_steps=2"], trust=TRUST).train(tmp_path / "no")


@pytest.mark.slow
def test_two_processes_train_what_one_does(config: Path, detect: Detect, tmp_path: Path) -> None:
    alone = detect("data.equal=true", out="one")
    both = launch(
        *("train", config, "--out", tmp_path / "two", "--set", "data.equal=true", "--trust", "detection_task"),
        program=("-m", "kd_vision"),
    )
    _, errors = both.communicate(timeout=240)
    assert both.returncode == 0, errors
    assert rows(tmp_path / "two", "train")[0] == pytest.approx(rows(alone.run, "train")[0], rel=1e-4)
    one, two = weights(alone.run), weights(tmp_path / "two")
    assert all(torch.allclose(one[key], two[key], atol=1e-5) for key in one)


@pytest.mark.realdata
@pytest.mark.slow
def test_images_of_coco(detect: Detect, real_data: Path) -> None:
    result = detect("data.name=coco", f"data.root={real_data / 'coco2017_subset'}", "data.images=3")
    assert rows(result.run, "train")[0]["classes"] > 0
