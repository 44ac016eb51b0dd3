"""Losses of detectors with their adapters equal their reference code (made by make_detection.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from make_detection import grid, real
from recipes import Input, weigh
from torch import Tensor, nn

from kd_core.adapters import global_context, matched_statistics, projector, valuable_region
from kd_core.losses import fgd, mgd

HERE = Path(__file__).parent
NAMES = {"alpha_fgd": "alpha", "beta_fgd": "beta", "gamma_fgd": "gamma", "temp": "temperature"}


def goldens(name: str) -> list[Any]:
    found = json.loads((HERE / "detection" / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(each, id=f"{name}-{number}") for number, each in enumerate(found)]


def near(ours: Tensor | None, golden: list[float]) -> None:
    assert ours is not None
    torch.testing.assert_close(
        ours.detach().flatten(), torch.tensor(golden, dtype=torch.float64), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("golden", goldens("fgd"))
def test_fgd_of_its_blocks_equals_its_reference(golden: dict[str, Any]) -> None:
    given = {name: Input(**each).tensor().requires_grad_() for name, each in golden["inputs"].items()}
    student, teacher, boxes = given.values()
    meta = [each.detach().to("meta") for each in (student, teacher)]
    align = projector(meta[:1], meta[1], None, keep_equal=True)
    blocks = [global_context(meta[1:], None, None) for _ in range(2)]
    convolutions = [align, blocks[0].attend, blocks[1].attend, blocks[0].transform, blocks[1].transform]
    parts = nn.ModuleList(convolutions).double()  # type: ignore[arg-type]
    weigh(parts, 400)
    values = {NAMES[name]: value for name, value in golden["values"].items() if name in NAMES}
    aligned = align(student)
    relation = mgd(blocks[0](aligned), blocks[1](teacher))
    value = fgd(aligned, teacher, boxes, **values) + golden["values"]["lambda_fgd"] * relation
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    for parameter, gradient in zip(parts.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)


@pytest.mark.parametrize("golden", goldens("crosskd"))
def test_a_teachers_head_reads_a_students_features_as_in_its_reference(golden: dict[str, Any]) -> None:
    student, teacher = (Input(**each).tensor().requires_grad_() for each in golden["inputs"].values())
    channels, index = student.shape[1], golden["values"]["index"]
    layers = [nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(2)]
    head = nn.Sequential(*layers, nn.Conv2d(channels, 2, 1)).double()
    weigh(head, 400)
    matched = matched_statistics([student, teacher], None, None, relu=index > 0)(student, teacher)
    values = head[index:](matched)
    seed = golden["inputs"]["student"]["seed"] + 2
    value = (values * Input(tuple(values.shape), seed).tensor()).sum()
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    near(student.grad, golden["gradients"]["student"])
    near(teacher.grad, golden["gradients"]["teacher"])


@pytest.mark.parametrize("golden", goldens("region"))
def test_the_valuable_region_equals_its_reference(golden: dict[str, Any]) -> None:
    boxes, sides = Input(**golden["boxes"]).tensor(), golden["values"]["sides"]
    assert 1 < len(real(boxes[None])[0]) < len(boxes)  # the others are none, and count nothing
    inputs = [
        boxes[None],
        [grid(*sides).double()],
        [torch.zeros(1, 1, 8 // 2**n, 8 // 2**n) for n in range(len(sides))],
    ]
    found = valuable_region(inputs, None, None, nearest=golden["values"]["nearest"])(*inputs)
    near(found, golden["value"])
    assert 3 < (found > 0).sum() < found.numel() / 2
