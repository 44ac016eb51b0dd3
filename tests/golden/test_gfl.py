"""GFL's losses, and what localization distillation adds, equal their reference code (made by make_gfl.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from make_detection import real
from make_gfl import SIDE, anchors_of
from recipes import Input
from torch import Tensor

from kd_core.adapters import atss_anchors, confidence, valuable_region
from kd_core.losses import kd, ld
from kd_vision.detection.gfl import BOX_WEIGHT, DISTRIBUTION_WEIGHT, IntegralBoxes, losses

HERE = Path(__file__).parent


def goldens(name: str) -> list[Any]:
    return json.loads((HERE / "detection" / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def given_of(golden: dict[str, Any]) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
    """The inputs, each image's boxes, and each image's anchors."""
    given = {name: Input(**each).tensor().requires_grad_(name != "boxes") for name, each in golden["inputs"].items()}
    rows = anchors_of(golden["values"]["scale"], golden["values"]["levels"]).double()
    return given, real(given["boxes"]), [rows] * len(given["boxes"])


def close(value: Tensor, golden: list[float]) -> None:
    torch.testing.assert_close(value.detach().flatten(), torch.tensor(golden).double(), rtol=1e-7, atol=1e-10)


def labels_of(boxes: Tensor, kinds: int) -> Tensor:
    """Box number n is of the class n, counted around."""
    return (1 + torch.arange(len(boxes))) % kinds


@pytest.mark.parametrize("golden", goldens("gfl"))
def test_the_losses_equal_their_reference(golden: dict[str, Any]) -> None:
    given, boxes, anchors = given_of(golden)
    kinds = given["logits"].shape[2]
    targets = [{"boxes": rows, "labels": labels_of(rows, kinds)} for rows in boxes]
    outputs = {"cls_logits": given["logits"], "bbox_regression": given["sides"]}
    found = losses(targets, outputs, anchors, IntegralBoxes(golden["values"]["scale"]))
    weights = {"classification": 1.0, "bbox_regression": BOX_WEIGHT, "distribution": DISTRIBUTION_WEIGHT}
    values = torch.stack([found[name] / weight for name, weight in weights.items()])
    close(values, golden["value"])
    values.sum().backward()
    for name, gradient in golden["gradients"].items():
        close(given[name].grad, gradient)  # type: ignore[arg-type]


@pytest.mark.parametrize("golden", goldens("ld"))
def test_localization_distillation_equals_its_reference(golden: dict[str, Any]) -> None:
    given, boxes, anchors = given_of(golden)
    kinds, levels = given["logits"].shape[2], golden["values"]["levels"]
    maps = [torch.zeros(1, 1, SIDE >> level, SIDE >> level) for level in range(levels)]
    truth = [torch.stack(boxes), torch.stack([labels_of(rows, kinds) for rows in boxes]), anchors, maps]
    matched = atss_anchors(truth, None, None)(*truth)
    sure = confidence([given["logits"]], None, None)(given["logits"], matched["positive"])
    near = valuable_region([truth[0], anchors, maps], None, None)(truth[0], anchors, maps)
    parts = [
        0.25 * ld(given["sides"], given["teacher_sides"], sure, temperature=10.0),
        0.25 / 4 * ld(given["sides"], given["teacher_sides"], near, temperature=10.0),
    ]
    rows = [part.split([each.numel() for each in maps], 1) for part in (given["logits"], given["teacher_logits"], sure)]
    means = [kd(*level, temperature=2.0, dim=-1) for level in zip(*rows, strict=True)]  # of the levels, added up
    assert all(means)
    values = torch.stack([*parts, 10 / kinds * torch.stack(means).sum()])
    close(values, golden["value"])
    values.sum().backward()
    for name, gradient in golden["gradients"].items():
        close(given[name].grad, gradient)  # type: ignore[arg-type]
