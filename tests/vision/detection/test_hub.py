"""Detectors of transformers: how images and boxes go in and come out, and which output is which class."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kd_core.config import Policy, loads
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.models.hub import HubModelRequest
from kd_core.notes import Note
from kd_vision.detection.data.info import DetectionInfo
from kd_vision.detection.hub import Detection, DetectorHub, detection_of
from kd_vision.detection.task import ObjectDetection

transformers = pytest.importorskip("transformers")
CLASSES = ("background", "disc", "square", "triangle", "ring", "cross")
TINY = {
    "use_timm_backbone": False,
    "backbone": None,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 16 for part in ("encoder", "decoder")},
    "num_queries": 10,
}
STAGES = {"embedding_size": 8, "hidden_sizes": [8] * 4, "depths": [1] * 4, "layer_type": "basic"}


def folder_of(folder: Path, *names: str, size: dict[str, int]) -> Path:
    """A tiny DETR with random weights."""
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(**STAGES, out_features=["stage4"])
    names_of = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    config = transformers.DetrConfig(**TINY, backbone_config=backbone, **names_of)
    transformers.DetrForObjectDetection(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    return folder


@pytest.fixture(scope="module")
def detr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("n/a", "Ring", "cross", "disc", "square", "triangle")
    return folder_of(tmp_path_factory.mktemp("detr"), *names, size={"shortest_edge": 32, "longest_edge": 48})


def request(folder: Path, *, classes: tuple[str, ...] = CLASSES, notes: list[Note] | None = None, **more: Any) -> Any:
    info = DetectionInfo(classes=classes, model_parameters={"num_classes": len(classes)})
    return HubModelRequest(str(folder), info, log=[].append if notes is None else notes.append, **more)


def test_outputs_are_classes_by_their_names(detr: Path) -> None:
    model = DetectorHub("kd-vision").build(request(detr, new_head=False))
    assert model.detection.labels == (0, 4, 5, 1, 2, 3)  # type: ignore[union-attr]


def test_outputs_may_be_the_numbers_of_the_data(detr: Path) -> None:
    """As those of the first detectors on COCO, ten of whose numbers are no classes."""
    numbers = ["hat", "disc", "street sign", "square", "n/a", "ring"]
    classes = ("background", "disc", "N/A", "square", "N/A", "ring")
    model = DetectorHub("kd-vision").build(request(detr, classes=classes, new_head=False), labels=numbers)
    assert model.detection.labels == (0, 1, 0, 3, 0, 5)  # type: ignore[union-attr]


def test_other_classes_have_new_heads_or_are_refused(detr: Path) -> None:
    notes: list[Note] = []
    other = ("background", "cat", "dog", "n/a")
    with pytest.raises(KDError, match="was trained for the classes n/a, Ring"):
        DetectorHub("kd-vision").build(request(detr, classes=other, new_head=False))
    model: Any = DetectorHub("kd-vision").build(request(detr, classes=other, notes=notes))
    assert model.class_labels_classifier.weight.shape == (3, 16)
    assert model.detection.labels == (1, 2)
    assert "new head" in str(notes[0])
    same_count: Any = DetectorHub("kd-vision").build(request(detr, classes=("background", *"abcdef")))
    old: Any = DetectorHub("kd-vision").build(request(detr))
    assert not torch.equal(same_count.class_labels_classifier.weight, old.class_labels_classifier.weight)
    assert torch.equal(same_count.bbox_predictor.layers[0].weight, old.bbox_predictor.layers[0].weight)


def test_boxes_go_in_and_come_out_in_pixels_of_the_image() -> None:
    detection = Detection({"height": 32, "width": 32}, None, None, (2, 0, 1), masked=False)
    boxes, labels = torch.tensor([[10.0, 20.0, 50.0, 40.0], [0.0, 0.0, 100.0, 60.0]]), torch.tensor([1, 2])
    truth = detection.truth({"boxes": boxes, "labels": labels}, (60, 100))
    assert truth["class_labels"].tolist() == [2, 0]
    torch.testing.assert_close(truth["boxes"][0], torch.tensor([0.3, 0.5, 0.4, 1 / 3]))
    logits = torch.tensor([[[-3.0, 9.0, 2.0, 0.0], [4.0, 9.0, -3.0, 0.0]]])
    for outputs in (logits, logits[..., :3]):  # with an output for no object, and without
        found = SimpleNamespace(logits=outputs, pred_boxes=truth["boxes"][None])
        (first,) = detection.detections(found, [(60, 100)])
        assert first["labels"].tolist() == [2, 1]
        torch.testing.assert_close(first["boxes"], boxes.flip(0))
    torch.testing.assert_close(first["scores"], torch.tensor([4.0, 2.0]).sigmoid())


@pytest.mark.parametrize("size", [(30, 41), (41, 30), (20, 90), (33, 33)])
def test_images_are_what_the_processor_makes_of_them(size: tuple[int, int]) -> None:
    told = {"size": {"shortest_edge": 32, "longest_edge": 48}}
    detection = detection_of(told, (1,), masked=True)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    theirs = transformers.DetrImageProcessor(**told)(image, return_tensors="pt")["pixel_values"][0]
    ours = detection.scaled(image / 255)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() < 0.02  # theirs is rounded to whole numbers of 255


def test_the_padding_of_a_batch_is_masked_or_refused() -> None:
    images = [torch.ones(3, 4, 6), torch.ones(3, 5, 3)]
    pixels, mask = Detection({}, None, None, (1,), masked=True).padded(images)
    assert torch.equal(pixels[:, 0].long(), mask)
    assert mask.sum((1, 2)).tolist() == [24, 15]
    with pytest.raises(KDError, match="is not told where images are padded"):
        Detection({}, None, None, (1,), masked=False).padded(images)


@pytest.mark.parametrize("told", [{"size": "large"}, {"size": {"pixels": 3}}])
def test_a_size_of_another_form_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(KDError, match="neither height and width nor shortest_edge"):
        detection_of(told, (1,), masked=True)


def test_it_is_called_as_all_detectors_are(detr: Path, tmp_path: Path) -> None:
    hub, task = DetectorHub("kd-vision"), ObjectDetection()
    model = hub.build(request(detr))
    images = [torch.rand(3, 30, 40), torch.rand(3, 40, 30)]
    targets = [{"boxes": torch.tensor([[1.0, 2.0, 20.0, 25.0]]), "labels": torch.tensor([4])}] * 2
    losses = task.call(model.train(), {"images": images, "targets": targets})
    assert {"loss", "loss_ce", "loss_bbox", "loss_giou"} == losses.keys()
    losses["loss"].backward()
    with torch.no_grad():
        found = task.call(model.eval(), {"images": images})
        assert [each["boxes"].shape for each in found] == [(10, 4)] * 2
        assert all((each["labels"] > 0).all() for each in found)
        alone = task.call(model, {"images": images[:1]})[0]
        torch.testing.assert_close(alone["boxes"], found[0]["boxes"], atol=0.05, rtol=0)  # whatever is padded
        hub.save(model, tmp_path)
        again = hub.build(request(tmp_path, weights=False))
        again.load_state_dict(model.state_dict())
        same = task.call(again.eval(), {"images": images})
    assert all(torch.equal(*pair) for pair in zip(found[0].values(), same[0].values(), strict=True))


@pytest.mark.slow
def test_it_trains_and_its_student_stands_alone(detr: Path, tmp_path: Path) -> None:
    text = f"""
task: object_detection
data: {{name: scenes, limit: {{train: 4, val: 2}}, workers: 0}}
models: {{student: {{hub: {detr}}}}}
stages:
  train:
    steps: 2
    batch_size: 2
    losses: {{detector: {{loss: identity, value: student.output/loss, mean_over: samples}}}}
    optimizer: !call:torch.optim.SGD {{lr: 0.01}}
"""
    result = Experiment.planned(loads(text), Policy()).train(tmp_path / "run")
    assert 0 <= result.metrics["ap"] <= 100
    assert not result.warnings
    model = transformers.AutoModelForObjectDetection.from_pretrained(tmp_path / "run" / "student")
    assert model.config.id2label[1] == "Ring"
