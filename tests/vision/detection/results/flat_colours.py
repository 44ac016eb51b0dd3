"""A detector that finds pure colours, images of such, and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, nn

import kd_vision.detection.task
from kd_core.models.registry import MODELS
from kd_vision.cli import main

SIZE = (340, 500)
NASTY = "<script>alert(1)</script>"
CATEGORIES = [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}, {"id": 11, "name": NASTY}]
"""In the order of their ids they have the labels 2, 1 and 3."""
LABELS = {3: 1, 7: 2, 11: 3}
COLOURS = {1: (0, 0, 255), 2: (255, 0, 0), 3: (0, 255, 0)}
IMAGES: list[list[tuple[int, tuple[int, int, int, int]]]] = [
    [(7, (20, 30, 120, 130)), (3, (200, 100, 300, 300))],
    [(3, (50, 60, 250, 260))],
    [(11, (100, 100, 200, 200)), (7, (250, 20, 330, 90)), (3, (250, 200, 400, 300))],
]
"""The objects of each image: category and x1, y1, x2, y2."""


@MODELS("flat_colours")
class FlatColours(nn.Module):
    """Finds one area of each pure colour, its box moved by ``shift`` pixels; ``wrong`` is a label it takes for 1."""

    masks = False

    def __init__(self, *, num_classes: int = 4, shift: int = 0, wrong: int = 0) -> None:
        super().__init__()
        self.shift, self.wrong = shift, wrong
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if self.training:
            return {"fit": self.weight.square().sum()}
        return [self.found(image) for image in images]

    def found(self, image: Tensor) -> dict[str, Tensor]:
        boxes, labels, masks = [], [], []
        for label, colour in COLOURS.items():
            area = (image == torch.tensor(colour)[:, None, None] / 255).all(0)
            if area.any():
                rows, columns = area.any(1).nonzero(), area.any(0).nonzero()
                box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
                boxes.append([float(edge) + self.shift for edge in box])
                labels.append(1 if label == self.wrong else label)
                masks.append(area[None].float())
        output = {
            "boxes": torch.tensor(boxes).reshape(-1, 4) * self.weight,
            "labels": torch.tensor(labels, dtype=torch.int64),
            "scores": torch.tensor([0.9 - 0.3 * number for number in range(len(boxes))]),
        }
        return {**output, "masks": torch.stack(masks)} if self.masks and masks else output


CONFIG = """
task: object_detection
data:
  {name: coco_json, root: ROOT, annotations: all.json, images: images, val_annotations: all.json, workers: 0}
models:
  student: {arch: flat_colours}
stages:
  train:
    epochs: 1
    batch_size: 3
    losses: {fit: {loss: identity, value: student.output/loss}}
    optimizer: !call:torch.optim.SGD {lr: 0.0}
"""
DISTILLED = CONFIG.replace("  student: {", "  teacher: {run: ROOT/teacher}\n  student: {wrong: 2, shift: 10, ")


def kd_vision(*arguments: str | Path) -> Result:
    torch.set_num_threads(1)
    return CliRunner().invoke(main, list(map(str, arguments)))


def write_images(root: Path) -> None:
    """The images, and their annotations in ``all.json``."""
    (root / "images").mkdir()
    annotations, images = [], []
    for number, objects in enumerate(IMAGES):
        pixels = np.full((*SIZE, 3), 120, np.uint8)
        for category, (left, top, right, bottom) in objects:
            pixels[top:bottom, left:right] = COLOURS[LABELS[category]]
            box = [left, top, right - left, bottom - top]
            entry = {"id": len(annotations) + 1, "image_id": 100 + number, "category_id": category, "bbox": box}
            polygon = [left, top, right, top, right, bottom, left, bottom]
            annotations.append({**entry, "iscrowd": 0, "area": box[2] * box[3], "segmentation": [polygon]})
        name = f"image{number}.png"
        Image.fromarray(pixels).save(root / "images" / name)
        images.append({"id": 100 + number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "all.json").write_text(json.dumps(content))


def answers(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refused(result: Result, message: str) -> None:
    """One message, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.stderr
