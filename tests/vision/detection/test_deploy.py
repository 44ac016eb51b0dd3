"""Detectors as functions of one tensor: the same detections as the model's own, and files that give them."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kd_core
from kd_core.deploy.export import export
from kd_core.deploy.formats import METADATA
from kd_core.deploy.profile import profile
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.models.registry import MODELS
from kd_vision.detection.deploy import boxes_and_scores, detections, facts, network_input

SIZE = {"min_size": 128, "max_size": 192}
CNN: dict[str, Any] = {**SIZE, "backbone": "cnn", "width": 4, "pyramid_channels": 8, "num_classes": 4}
MODELS_OF = {
    "retinanet": CNN,
    "fcos": CNN,
    "gfl": CNN,
    "ssdlite": {"backbone": "mobilenet_v3_small", "num_classes": 4, "size": 96},
}


def detector(arch: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = MODELS.get(arch)(**{**MODELS_OF[arch], **options}).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):  # scores that differ
            nn.init.kaiming_normal_(module.weight)
    if (scores := getattr(model.head.classification_head, "cls_logits", None)) is not None:  # none of them 1
        nn.init.normal_(scores.weight, std=0.02)
    return model


@pytest.mark.parametrize("arch", MODELS_OF)
def test_detections_are_those_of_the_model(arch: str) -> None:
    model = detector(arch)
    model.topk_candidates = model.detections_per_img = 10**6
    image = torch.rand(3, 60, 80)
    with torch.no_grad():
        tensors = network_input(model, [image])
        (row,) = boxes_and_scores(model, tensors)
        model.score_thresh = float(row[:, 5:].quantile(0.9))
        expected = model([image])[0]
    scaled = model.transform([image])[0].image_sizes[0]
    found = detections(row, (60, 80), input_size=tuple(tensors.shape[2:]), scaled=scaled, **facts(model))
    expected = {key: value[expected["labels"] > 0] for key, value in expected.items()}  # untrained, it sees background
    assert len(expected["boxes"]) > 5
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-3)


def test_an_r_cnn_is_refused() -> None:
    model = MODELS.get("faster_rcnn")(**CNN)
    with pytest.raises(KDError, match=r"FasterRCNN cannot be exported or profiled as one graph\n.*RetinaNet"):
        network_input(model, [torch.rand(3, 60, 80)])


CONFIG = """
task: object_detection
data: {name: scenes, limit: {train: 4, val: 3}, workers: 0, augment: none}
models: {student: {arch: retinanet, backbone: cnn, width: 4, pyramid_channels: 8, min_size: 128, max_size: 192}}
stages:
  train:
    steps: 1
    batch_size: 2
    losses: {detector: {loss: identity, value: student.output/loss, mean_over: samples}}
    optimizer: !call:torch.optim.SGD {lr: 0.001}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "config.yaml").write_text(CONFIG)
    Experiment.load(folder / "config.yaml").train(folder / "run")
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch-export", "onnx"])
def test_a_file_gives_what_the_run_gives_for_images_of_any_size(run: Path, tmp_path: Path, name: str) -> None:
    if name == "onnx" and not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        pytest.skip("onnxruntime is not installed")
    out = tmp_path / f"detector{'.onnx' if name == 'onnx' else '.pt2'}"
    done = export(run, format=name, out=out, count=3)
    assert (done.parity.samples, done.parity.equal) == (3, None)
    assert done.parity.relative <= 1e-4
    assert done.inputs == {"input": ["batch", 3, "any", "any"]}
    if name == "torch-export":
        told = {METADATA: ""}
        module = torch.export.load(out, extra_files=told).module()
        student = kd_core.load(run)
        images = torch.rand(1, 3, 160, 96)
        torch.testing.assert_close(module(images), boxes_and_scores(student.model, images))
        assert json.loads(told[METADATA])["scaling"] == {"shorter_side": [128], "longer_side": 192}


@pytest.mark.slow
def test_a_detector_is_profiled(run: Path) -> None:
    (model,) = profile(run, batches=(1,), modes=("eager",), seconds=0.01).models
    assert model.macs > 0
    assert model.latencies[0].median > 0
