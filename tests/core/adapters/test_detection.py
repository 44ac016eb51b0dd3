"""Adapters for detectors: boxes, anchors, and what the teacher's later layers can read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.adapters import (
    ADAPTERS,
    anchor_rows,
    boxes_on_maps,
    decoded_boxes,
    global_context,
    matched_anchors,
    matched_statistics,
    projector,
)
from kd_core.errors import KDError


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def image(*rows: list[float]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(rows).reshape(-1, 4), "labels": torch.arange(1, len(rows) + 1)}


def test_images_with_fewer_boxes_are_filled_up() -> None:
    given = (SimpleNamespace(tensors=torch.zeros(2, 3, 20, 40)), [image(), image([0, 5, 10, 20], [2, 2, 4, 4])])
    truth = boxes_on_maps([given], None, None)(given)
    assert truth["boxes"].tolist() == [[[0, 0, -1, -1]] * 2, [[0, 5, 10, 20], [2, 2, 4, 4]]]
    assert truth["fractions"][1, 0].tolist() == [0.0, 0.25, 0.25, 1.0]
    assert truth["labels"].tolist() == [[0, 0], [1, 2]]
    none = (torch.zeros(2, 3, 20, 40), [image(), image()])
    assert boxes_on_maps([none], None, None)(none)["boxes"].shape == (2, 0, 4)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(2, 3), "takes a detector's padded images and its targets"),
        ((torch.zeros(2, 3, 4, 4), {}), "takes a detector's padded images and its targets"),
        ((torch.zeros(2, 3, 4, 4), None), "is given no targets"),
        ((SimpleNamespace(tensors=torch.zeros(2, 3, 4, 4)), []), "is given no targets"),
    ],
)
def test_what_has_no_boxes_is_refused(given: Any, message: str) -> None:
    with pytest.raises(KDError, match=message):
        boxes_on_maps([given], None, None)(given)


@pytest.mark.parametrize(
    ("name", "inputs", "match", "width", "message"),
    [
        ("boxes_on_maps", [1, 2], None, None, "takes one input, and no width"),
        ("boxes_on_maps", [1], None, 3, "takes one input, and no width"),
        ("anchor_rows", [maps(2, 6, 3, 3)], None, None, "takes one input and a width"),
        ("anchor_rows", [[maps(2, 6, 3, 3)]], None, 4, "no multiple of 4 channels"),
        ("anchor_rows", [[maps(2, 6)]], None, 3, "takes feature maps"),
        ("matched_anchors", [1, 2], None, None, "takes boxes, labels and anchors"),
        ("decoded_boxes", [1], None, None, "takes offsets and anchors"),
        ("confidence", [1, 2, 3], None, None, "takes logits and perhaps a mask"),
        ("valuable_region", [1, 2], None, None, "takes boxes, anchors and the levels' maps"),
        ("matched_statistics", [maps(2, 3, 4, 4)], None, None, "a map of the student and one of the teacher"),
        ("matched_statistics", [maps(2, 3, 4, 4), maps(2, 4, 4, 4)], None, None, "differ in channels"),
        ("matched_statistics", [maps(2, 3), maps(2, 3)], None, None, "takes feature maps"),
        ("global_context", [maps(2, 1, 4, 4)], None, None, "has one"),
        ("global_context", [maps(2, 4)], None, None, "takes feature maps"),
        ("global_context", [maps(2, 4, 4, 4)], None, 8, "neither match nor out_features"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name: str, inputs: list[Any], match: Any, width: Any, message: str) -> None:
    with pytest.raises(KDError, match=message):
        ADAPTERS.get(name)(inputs, match, width)


def test_the_background_is_below_the_foreground() -> None:
    with pytest.raises(KDError, match=r"background must be at most foreground, 0\.3, not 0\.4"):
        matched_anchors([1, 2, 3], None, None, foreground=0.3)  # type: ignore[list-item]


def test_rows_follow_levels_rows_columns_and_anchors() -> None:
    first, second = torch.arange(24.0).view(1, 4, 2, 3), -torch.arange(4.0).view(1, 4, 1, 1)
    rows = anchor_rows([[first, second]], None, 2)({"0": first, "1": second})
    assert rows.shape == (1, 14, 2)
    assert rows[0, :3].tolist() == [[0, 6], [12, 18], [1, 7]]
    assert rows[0, -1].tolist() == [-2, -3]
    assert torch.equal(anchor_rows([second], None, 2)(second), rows[:, -2:])


def test_anchors_without_offsets_are_the_boxes() -> None:
    anchors = [torch.tensor([[0.0, 2.0, 8.0, 4.0]])] * 2
    offsets = torch.tensor([[[0.0] * 4], [[0.5, 1.0, 0.0, 100.0]]])
    boxes = decoded_boxes([offsets, anchors], None, None)(offsets, anchors)
    assert boxes[0].tolist() == [[0, 2, 8, 4]]
    assert boxes[1, 0, ::2].tolist() == [4, 12]
    assert (boxes[1, 0, 3] - boxes[1, 0, 1]).item() == pytest.approx(2 * 1000 / 16)


def test_the_confidence_is_the_most_probable_classs() -> None:
    logits, mask = maps(2, 5, 3).requires_grad_(), torch.tensor([[1, 0, 1, 1, 0]] * 2).bool()
    sure = ADAPTERS.get("confidence")([logits, mask], None, None)(logits, mask)
    assert torch.equal(sure, logits.amax(2).sigmoid() * mask)
    assert not sure.requires_grad


def test_the_valuable_region_leaves_out_what_is_no_box() -> None:
    anchors = [torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]])] * 2
    none = [0.0, 0.0, -1.0, -1.0]
    boxes, levels = torch.tensor([[none, none], [[0.0, 0, 6, 6], none]]), {"0": maps(2, 1, 2, 2)}
    module = ADAPTERS.get("valuable_region")([boxes, anchors, levels], None, None)
    region = module(boxes, anchors, levels)
    assert not region[0].any()
    assert region[1].any()
    assert torch.equal(module(boxes[:, :0], anchors, levels), torch.zeros(2, 4))
    with pytest.raises(KDError, match="4 anchors are no multiple of the 3 positions"):
        module(boxes, anchors, [maps(2, 1, 3, 1)])


def test_statistics_are_the_teachers() -> None:
    student, teacher = 5 + 3 * maps(2, 3, 4, 5), maps(2, 3, 2, 3, seed=1)
    matched = matched_statistics([student, teacher], None, None)(student, teacher)
    assert matched.shape == student.shape
    for function in (torch.mean, torch.std):
        torch.testing.assert_close(function(matched, dim=(0, 2, 3)), function(teacher, dim=(0, 2, 3)))
    active = matched_statistics({"student": student, "teacher": teacher}, None, None, relu=True)
    assert torch.equal(active(student=student, teacher=teacher), matched.relu())
    assert matched_statistics.over_batch  # type: ignore[attr-defined]


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 2, 2)])
def test_constant_features_have_finite_gradients(shape: tuple[int, ...]) -> None:
    student = torch.ones(shape, requires_grad=True)
    matched_statistics([student, student], None, None)(student, maps(*shape)).sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_global_context_begins_as_nothing_and_learns() -> None:
    block, features = global_context([maps(2, 4, 3, 5)], None, None), maps(2, 4, 3, 5)
    assert torch.equal(block(features), features)
    block(features).square().sum().backward()
    last = [*block.modules()][-1]
    assert isinstance(last, nn.Conv2d)
    assert last.weight.grad is not None
    assert last.weight.grad.any()


def test_a_projector_keeps_what_fits() -> None:
    same, wider = maps(2, 4, 3, 3), maps(2, 6, 3, 3)
    assert isinstance(projector([same], same, None, keep_equal=True), nn.Identity)
    assert isinstance(projector([same], wider, None, keep_equal=True), nn.Sequential)
    assert isinstance(projector([same], same, None), nn.Sequential)
