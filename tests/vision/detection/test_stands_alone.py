"""A detector without the data and the run that it was made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kd_core
import kd_vision.detection.models
import kd_vision.detection.task  # noqa: F401  which register what the config names
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.evaluation import evaluate, load_student
from kd_core.experiment import Experiment

CONFIG = """
task: object_detection
data: {{name: coco_json, root: {root}, annotations: boxes.json, images: images, val_annotations: boxes.json,
       val_images: images, workers: 0}}
models:
  student: {{arch: retinanet, backbone: resnet18, pyramid_channels: 8, min_size: 32, max_size: 64}}
stages:
  train:
    steps: 1
    batch_size: 2
    losses: {{detector: {{loss: identity, value: student.output/loss, mean_over: samples}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.01}}
"""


def write(root: Path) -> None:
    """Two images of different sizes with a box each."""
    (root / "images").mkdir(parents=True)
    images, boxes = [], []
    for row, (height, width) in enumerate([(32, 40), (36, 32)]):
        pixels = np.random.default_rng(row).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{row}.png")
        images.append({"id": row, "file_name": f"{row}.png", "height": height, "width": width})
        box = {"bbox": [2, 3, 20, 18], "area": 360, "iscrowd": 0}
        boxes.append({"id": row + 1, "image_id": row, "category_id": 1, **box})
    categories = [{"id": 1, "name": "thing"}]
    (root / "boxes.json").write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))


@pytest.mark.slow
def test_a_detector_stands_alone(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write(tmp_path / "data")
    (tmp_path / "c.yaml").write_text(CONFIG.format(root=tmp_path / "data"))
    run = Experiment.load(tmp_path / "c.yaml").train(tmp_path / "run").run
    assert run is not None
    with load_student(run) as loaded:
        data, splits = loaded.read()
        assert splits.val is not None
        raw = next(iter(splits.val.batches([torch.arange(2)], epoch=0, seed=0, augment=False)))
        inputs = loaded.plan.task.prepare(raw, {STUDENT: loaded.plan.inputs[STUDENT]}, data, training=False)
    expected = inputs.for_model(STUDENT)["images"]
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    run = run.rename(tmp_path / "moved")
    (tmp_path / "data").rename(tmp_path / "other")
    expected_metrics = {key: float("nan") if value is None else value for key, value in metrics.items()}
    assert evaluate(run, root=tmp_path / "other").metrics == pytest.approx(expected_metrics, nan_ok=True)
    student = kd_core.load((run / "student").rename(tmp_path / "alone"))
    shutil.rmtree(run)
    assert student.classes is not None
    assert student.classes[1] == "thing"
    files = [tmp_path / "other" / "images" / f"{row}.png" for row in range(2)]
    found = student.preprocess(files)["images"]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    [detected] = student(np.array(Image.open(files[0])))
    assert {"boxes", "scores", "labels"} <= detected.keys()
    with pytest.raises(KDError, match="is not a readable image"):
        student(tmp_path / "c.yaml")
