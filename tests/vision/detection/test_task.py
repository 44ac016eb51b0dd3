"""The task's own: what a check makes of a detector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import kd_vision.detection.models  # noqa: F401  which registers models
from kd_core.models.registry import MODELS
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
