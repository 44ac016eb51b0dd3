"""The task's own: what a check makes of a detector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError
from torch import nn

import kd_vision.detection.models  # noqa: F401  which registers models
from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_vision.cli import main
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.task import ObjectDetection


def test_a_check_scales_images_to_less_and_keeps_what_differs() -> None:
    models: list[Any]
    with torch.device("meta"):
        models = [
            MODELS.get("torchvision.retinanet_resnet50_fpn")(),
            MODELS.get("retinanet")(min_size=320, max_size=640),
            MODELS.get("retinanet")(backbone="cnn", min_size=64, max_size=96),
            MODELS.get("ssdlite")(size=320),
        ]
    sizes: list[tuple[Any, Any]] = []
    for model in models:
        ObjectDetection().lighten(model)
        sizes.append((model.transform.min_size, model.transform.max_size))
    assert sizes[:3] == [((140,), 173), ((110,), 130), ((64,), 96)]
    assert models[-1].transform.fixed_size == (320, 320)
    ObjectDetection().lighten(nn.Identity())


@pytest.mark.parametrize("data", ["coco_json", "yolo", "voc_detection"])
def test_a_dummy_batch_has_classes_that_a_model_of_any_number_has(data: str) -> None:
    options = {"coco_json": {"annotations": "t.json"}, "yolo": {}, "voc_detection": {"classes": ["one"]}}[data]
    task, values = ObjectDetection(), {"name": data, **options}
    targets = task.dummy_batch(task.data_schema(values).model_validate(values), 4, training=True).target
    assert {int(label) for target in targets for label in target["labels"]} == {1}


CHECKED = """\
task: object_detection
data: {name: coco_json, root: {root}, annotations: t.json, keypoints: true, val: 0}
models: {student: {arch: keypoint_rcnn, backbone: cnn, width: 4, norm: group}}
stages:
  s:
    {steps: 1, batch_size: 2, losses: {l: {loss: identity, value: student.output/loss, mean_over: samples}},
     optimizer: !call:torch.optim.SGD {lr: 0.1}}
"""


def test_a_check_knows_keypoints_that_only_the_data_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CHECKED.replace("{root}", "none"))
    result = CliRunner().invoke(main, ["check", "c.yaml"])
    assert (result.exit_code, result.output) == (0, "c.yaml: ok\n")


def spec(**options: Any) -> Any:
    values = {"name": "coco_json", "annotations": "t.json", **options}
    return ObjectDetection().data_schema(values).model_validate(values)


SMALL = {"backbone": "cnn", "width": 4, "norm": "group"}


@pytest.mark.parametrize(
    "arch",
    ["faster_rcnn", "retinanet", "fcos", "torchvision.ssd300_vgg16", "torchvision.ssdlite320_mobilenet_v3_large"],
)
def test_a_student_has_the_classes_of_the_data(arch: str) -> None:
    with torch.device("meta"):
        model = MODELS.get(arch)(num_classes=4, **({} if "." in arch else SMALL))
    ObjectDetection().check_student(model, DetectionInfo.of(num_classes=4), spec())
    ObjectDetection().check_student(model, DetectionInfo.of(), spec())  # where only reading would tell
    with pytest.raises(KDError, match=r"has num_classes 4, and of the data it is 3\n.*write `num_classes: 3`"):
        ObjectDetection().check_student(model, DetectionInfo.of(num_classes=3), spec())
    with pytest.raises(KDError, match="finds no masks"):
        ObjectDetection().check_student(model, DetectionInfo.of(num_classes=4), spec(masks=True))


def test_a_student_has_the_keypoints_of_the_data() -> None:
    with torch.device("meta"):
        model = MODELS.get("keypoint_rcnn")(num_classes=2, num_keypoints=5, **SMALL)
    with pytest.raises(KDError, match="has num_keypoints 5, and of the data it is 2"):
        ObjectDetection().check_student(
            model, DetectionInfo.of(num_classes=2, keypoints=("a", "b")), spec(keypoints=True)
        )


def test_groups_of_shapes_are_few() -> None:
    with pytest.raises(ValidationError):
        spec(group_by_aspect_ratio=10**9)
