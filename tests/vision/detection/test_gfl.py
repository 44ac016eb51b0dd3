"""GFL as a model of a config: its places, boxes and anchors, and how many positions stand for an object."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kd_vision.detection.models  # noqa: F401  which registers it
from kd_core.adapters import atss_anchors
from kd_core.adapters.atss import atss
from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.taps.landmarks import declared
from kd_core.taps.wires import Tap
from kd_vision.detection.gfl import IntegralBoxes, distribution_focal

SMALL = {"backbone": "cnn", "width": 4, "pyramid_channels": 8, "num_classes": 4, "min_size": 64, "max_size": 96}
BOX = {"boxes": torch.tensor([[10.0, 20.0, 40.0, 60.0]]), "labels": torch.tensor([2])}
NONE = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def detector(**parameters: Any) -> Any:
    torch.manual_seed(0)
    return MODELS.get("gfl")(**{**SMALL, **parameters})


def images(count: int = 2) -> list[Tensor]:
    return list(torch.rand(count, 3, 64, 80, generator=torch.Generator().manual_seed(0)))


def test_it_learns_boxes_and_images_without_any() -> None:
    model = detector()
    losses = model(images(), [BOX, NONE])
    assert list(losses) == ["classification", "bbox_regression", "distribution"]
    sum(losses.values()).backward()
    assert all(value.grad is not None for value in model.parameters())
    nothing = model(images(), [NONE, NONE])
    assert nothing["bbox_regression"] == nothing["distribution"] == 0 < nothing["classification"]


def test_its_places_are_those_of_a_retinanet() -> None:
    model = detector(reg_max=7)
    landmarks = declared(model)
    assert landmarks is not None
    assert landmarks.features[-1] == Tap("backbone.fpn.extra_blocks.p7")
    maps = [torch.rand(2, 8, 4, 5), torch.rand(2, 8, 2, 3), *(torch.rand(2, 8, 1, 1) for _ in range(3))]
    found = model.head(maps)
    assert found["cls_logits"].shape == (2, 29, 4)
    assert found["bbox_regression"].shape == (2, 29, 4, 8)
    head = model.head.regression_head
    raw = head.bbox_reg(head.conv(maps[1]))[1, :, 1, 2]
    assert torch.allclose(found["bbox_regression"][1, 20 + 5].flatten(), raw, atol=1e-6)


def test_anchors_stand_at_whole_strides_where_a_level_does_not_go_in() -> None:
    model = detector(anchor_scale=4, min_size=96)
    batch, _ = model.transform([torch.rand(3, 96, 96)])
    anchors = model.anchor_generator(batch, list(model.backbone(batch.tensors).values()))[0]
    centres, sides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    assert sorted(set(sides.tolist())) == [4.0 * stride for stride in (8, 16, 32, 64, 128)]
    assert centres[sides == 256].tolist() == [[0.0, 0.0], [64.0, 0.0], [0.0, 64.0], [64.0, 64.0]]


def test_a_side_lies_at_the_mean_of_its_distribution() -> None:
    logits = torch.full((1, 4, 5), -40.0)
    for side, distance in enumerate((1, 2, 3, 4)):
        logits[0, side, distance] = 40.0
    logits[0, 3, 3] = 40.0  # as likely as 4
    boxes = IntegralBoxes(2).decode_single(logits, torch.tensor([[12.0, 12.0, 28.0, 28.0]]))
    torch.testing.assert_close(boxes, torch.tensor([[20 - 8.0, 20 - 16.0, 20 + 24.0, 20 + 28.0]]))


def test_a_distribution_between_two_distances_costs_their_entropy_alone() -> None:
    logits = torch.full((1, 4, 4), -40.0)
    logits[..., 1:3] = 0.0
    truth = torch.tensor([[-1.5, -1.5, 1.5, 1.5]])
    loss = distribution_focal(logits, torch.zeros(1, 2), truth)
    torch.testing.assert_close(loss, torch.tensor([0.6931]), atol=1e-4, rtol=0)
    assert distribution_focal(logits, torch.zeros(1, 2), 9 * truth).isfinite()


def test_a_box_has_the_nearest_anchors_that_fit_it_best() -> None:
    places = torch.arange(4, 64, 8.0)
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    centres = torch.stack((columns, rows), 2).view(-1, 2)
    anchors = torch.cat((centres - 8, centres + 8), 1)
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [40.0, 40.0, 56.0, 56.0]])
    which = atss(boxes, anchors, [64])
    assert 1 <= (which == 0).sum() <= 9
    assert 1 <= (which == 1).sum() <= 9
    for number, box in enumerate(boxes):
        inside = centres[which == number]
        assert ((inside > box[:2]) & (inside < box[2:])).all()
    given = [
        torch.stack((boxes, boxes.new_tensor([[0.0, 0, -1, -1]] * 2))),
        torch.tensor([[3, 5], [0, 0]]),
        [anchors] * 2,
        [torch.zeros(2, 1, 8, 8)],
    ]
    found = atss_anchors(given, None, None)(*given)
    assert torch.equal(found["positive"], torch.stack((which >= 0, torch.zeros_like(which) > 0)))
    assert torch.equal(found["target"][0][which == 1], torch.full_like(which[which == 1], 5))
    assert (found["target"][~found["positive"]] == -100).all()
    with pytest.raises(KDError, match="atss_anchors takes boxes, labels, anchors and the levels' maps"):
        atss_anchors(given[:3], None, None)
    with pytest.raises(KDError, match="64 anchors are no multiple of the 9 positions"):
        atss_anchors(given, None, None)(*given[:3], [torch.zeros(2, 1, 3, 3)])
