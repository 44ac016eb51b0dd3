"""The task's own: what a check makes of a detector."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
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


@pytest.mark.slow
def test_a_check_knows_keypoints_that_only_the_data_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(CHECKED.replace("{root}", "none"))
    result = CliRunner().invoke(main, ["check", "c.yaml"])
    assert (result.exit_code, result.output) == (0, "c.yaml: ok\n")


def annotated(folder: Path, *, box: list[float], images: int = 1) -> None:
    """One image with an object with two keypoints, under so many ids, and its annotations t.json."""
    folder.mkdir()
    Image.new("RGB", (60, 50)).save(folder / "a.png")
    content = {
        "images": [{"id": number, "file_name": "a.png", "width": 60, "height": 50} for number in range(images)],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "bbox": box, "keypoints": [9, 9, 2, 20, 20, 2]}],
        "categories": [{"id": 1, "name": "bird", "keypoints": ["beak", "tail"]}],
    }
    (folder / "t.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("box", "student", "messages"),
    [
        pytest.param([5, 5, 30, 30], "", [], marks=pytest.mark.slow),
        ([5, 5, 0, 30], "", ["c.yaml:2:7: data: ", "annotation 1 has a 'bbox' without an area: [5, 5, 0, 30]"]),
        pytest.param(
            *([5, 5, 30, 30], ", num_keypoints: 5", ["KeypointRCNN has num_keypoints 5, and of the data it is 2"]),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_check_reads_annotations_that_are_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: list[float], student: str, messages: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    annotated(tmp_path / "birds", box=box)
    text = CHECKED.replace("{root}", "birds").replace(", norm: group", f", norm: group{student}")
    Path("c.yaml").write_text(text)
    result = CliRunner().invoke(main, ["check", "c.yaml"])
    assert result.exit_code == (2 if messages else 0), result.output
    assert all(message in result.output for message in messages), result.output


def test_an_image_file_with_several_ids_is_told(tmp_path: Path) -> None:
    annotated(tmp_path / "birds", box=[5, 5, 30, 30], images=3)
    notes = spec(root=str(tmp_path / "birds")).read().notes
    assert [str(note) for note in notes] == ["warning: 1 image file has several ids in the split train: a.png"]


class Own(nn.Module):
    """A user's detector that gives ``found`` in evaluation."""

    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found, self.layer = found, nn.Linear(1, 1)

    def forward(self, images: Any, targets: Any = None) -> Any:
        """Losses in training."""
        return {"l": self.layer.weight.sum()} if self.training else self.found


def boxes(count: int, **other: Any) -> dict[str, Any]:
    return {"boxes": torch.zeros(count, 4), "scores": torch.zeros(count), "labels": torch.ones(count), **other}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([boxes(0), boxes(3)], None),
        ({"boxes": None}, "the model returned a dict"),
        ([boxes(1)], "of 2 images the model returned 1"),
        ([boxes(1), {"pred_boxes": 1}], "detections have a tensor 'boxes'; the model returned none"),
        (
            [boxes(1), boxes(2, scores=torch.zeros(1))],
            r"'scores' of an image's detections is a tensor \(2,\), not \(1,\)",
        ),
    ],
)
def test_a_check_looks_at_what_a_users_model_gives_in_evaluation(found: Any, message: str | None) -> None:
    task, data = ObjectDetection(), spec()
    batch = task.dummy_batch(data, 2, training=False)
    with nullcontext() if message is None else pytest.raises(KDError, match=message):
        task.check_output(Own(found).eval(), lambda: found, batch, data)


def test_a_check_reports_outputs_that_cannot_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS._items, "own", lambda: Own(found={"boxes": 1}))
    text = CHECKED.replace("{root}", "none").replace(", keypoints: true", "")
    Path("c.yaml").write_text(
        text.replace("{arch: keypoint_rcnn, backbone: cnn, width: 4, norm: group}", "{arch: own}")
    )
    result = CliRunner().invoke(main, ["check", "c.yaml"])
    assert (result.exit_code, result.output.count("the model returned a dict")) == (2, 1), result.output


def spec(**options: Any) -> Any:
    values = {"name": "coco_json", "annotations": "t.json", **options}
    return ObjectDetection().data_schema(values).model_validate(values)


SMALL = {"backbone": "cnn", "width": 4, "norm": "group"}


@pytest.mark.parametrize(
    "arch",
    [
        "faster_rcnn",
        "retinanet",
        "fcos",
        "gfl",
        "torchvision.ssd300_vgg16",
        "torchvision.ssdlite320_mobilenet_v3_large",
    ],
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
