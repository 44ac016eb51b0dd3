"""Adapters for detectors on torchvision's own: where its transform puts the boxes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils, fcos, retinanet
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

from kd_core.adapters import anchor_rows, boxes_on_maps, centred_anchors, decoded_boxes, matched_anchors
from kd_core.errors import KDError


def transformed(training: bool = True) -> tuple[object, list[dict[str, Tensor]]]:
    """Images of 40 x 80 and 60 x 30 pixels at a shorter side of 32, padded to 64 x 64; two boxes and none."""
    transform = GeneralizedRCNNTransform(32, 64, [0.0] * 3, [1.0] * 3).train(training)
    targets = [
        {"boxes": torch.tensor([[0.0, 0.0, 80.0, 40.0], [10.0, 20.0, 30.0, 25.0]]), "labels": torch.tensor([3, 1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    images = [torch.rand(3, 40, 80), torch.rand(3, 60, 30)]
    result: tuple[object, list[dict[str, Tensor]]] = transform(images, targets if training else None)
    return result


def test_boxes_lie_where_the_transform_puts_them() -> None:
    given = transformed()
    truth = boxes_on_maps([given], None, None)(given)
    assert truth["boxes"].shape == (2, 2, 4)
    torch.testing.assert_close(truth["boxes"][0], torch.tensor([[0.0, 0.0, 64.0, 32.0], [8.0, 16.0, 24.0, 20.0]]))
    assert truth["fractions"][0, 0].tolist() == [0.0, 0.0, 1.0, 0.5]
    assert (truth["boxes"][1, :, 2] < truth["boxes"][1, :, 0]).all()
    assert truth["labels"].tolist() == [[3, 1], [0, 0]]


def boxes(count: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=random) * 40
    return torch.cat((corners, corners + 2 + torch.rand(count, 2, generator=random) * 30), dim=1)


@pytest.mark.parametrize(("foreground", "background", "low_quality"), [(0.5, 0.4, True), (0.3, 0.1, False)])
def test_anchors_are_matched_as_torchvision_matches_them(
    foreground: float, background: float, low_quality: bool
) -> None:
    anchors = [boxes(200, 0), boxes(200, 1)]
    truth = torch.stack((boxes(5, 2), boxes(5, 3)))
    truth[1, 3:] = torch.tensor([0.0, 0.0, -1.0, -1.0])
    truth[0, 4] = torch.tensor([500.0, 500.0, 510.0, 510.0])  # no anchor is there
    labels = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    inputs = [truth, labels, anchors]
    values = {"foreground": foreground, "background": background, "low_quality": low_quality}
    found = matched_anchors(inputs, None, None, **values)(*inputs)
    matcher = _utils.Matcher(foreground, background, allow_low_quality_matches=low_quality)
    for image, count in enumerate((5, 3)):
        places = matcher(box_iou(truth[image, :count], anchors[image]))
        assert torch.equal(found["positive"][image], places >= 0)
        assert torch.equal(found["mask"][image], places != matcher.BETWEEN_THRESHOLDS)
        expected = torch.where(places >= 0, labels[image][places.clamp(min=0)], -100)
        assert torch.equal(found["target"][image], expected)
    assert places.min() == matcher.BETWEEN_THRESHOLDS


def test_without_boxes_all_anchors_are_background() -> None:
    inputs = [torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), [boxes(7, 0), boxes(7, 1)]]
    none = torch.tensor([[[0.0, 0.0, -1.0, -1.0]]] * 2), torch.zeros(2, 1, dtype=torch.int64)
    for given in (inputs, [*none, inputs[2]]):
        found = matched_anchors(given, None, None)(*given)
        assert not found["positive"].any()
        assert found["mask"].all()
        assert (found["target"] == -100).all()


def test_the_rows_are_those_of_torchvisions_head() -> None:
    head = retinanet.RetinaNetHead(4, 3, 5)
    maps = [torch.rand(2, 4, 3, 5), torch.rand(2, 4, 2, 2)]
    for part, last, width in (("classification_head", "cls_logits", 5), ("regression_head", "bbox_reg", 4)):
        module = getattr(head, part)
        raw = [getattr(module, last)(module.conv(each)) for each in maps]
        assert torch.equal(anchor_rows([raw], None, width)(raw), module(maps))


def test_boxes_are_decoded_as_torchvision_decodes_them() -> None:
    anchors = [boxes(6, 0), boxes(6, 1)]
    offsets = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)) * 3
    offsets[0, 0, 2] = 9.0
    found = decoded_boxes([offsets, anchors], None, None)(offsets, anchors)
    coder = _utils.BoxCoder((1.0, 1.0, 1.0, 1.0))
    for image in range(2):
        torch.testing.assert_close(found[image], coder.decode_single(offsets[image], anchors[image]))


def test_distances_are_decoded_as_torchvision_decodes_them() -> None:
    anchors = [boxes(6, 0), boxes(6, 1)]
    distances = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    found = decoded_boxes([distances, anchors], None, None, form="distances")(distances, anchors)
    coder = _utils.BoxLinearCoder(normalize_by_size=True)
    torch.testing.assert_close(found, coder.decode(distances.relu(), torch.stack(anchors)))


def test_centred_positions_are_those_that_torchvisions_fcos_learns_from() -> None:
    places = [torch.stack(torch.meshgrid(*[torch.arange(0.0, 64, stride)] * 2, indexing="xy"), 2) for stride in (4, 8)]
    halves = [torch.full((part.shape[0] ** 2, 2), stride / 2) for part, stride in zip(places, (4, 8), strict=True)]
    centres, halves = torch.cat([part.view(-1, 2) for part in places]), torch.cat(halves)
    anchors = torch.cat((centres - halves, centres + halves), 1)
    truth = torch.tensor(
        [[[4.0, 5.0, 20.0, 22.0], [10.0, 3.0, 60.0, 50.0]], [[30.0, 30.0, 45.0, 41.0], [0, 0, -1, -1]]]
    )
    labels = torch.tensor([[3, 4], [5, 0]])
    given = [truth, labels, [anchors] * 2, [torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 8, 8)]]
    found = centred_anchors(given, None, None)(*given)
    learned: list[Any] = []
    head = SimpleNamespace(compute_loss=lambda targets, outputs, anchors, matched: learned.extend(matched))
    targets = [{"boxes": truth[0]}, {"boxes": truth[1, :1]}]
    model: Any = SimpleNamespace(center_sampling_radius=1.5, head=head)
    fcos.FCOS.compute_loss(model, targets, {}, [anchors] * 2, [256, 64])  # type: ignore[arg-type]
    for image, matched in enumerate(learned):
        assert (matched >= 0).sum() > 3
        assert torch.equal(found["positive"][image], matched >= 0)
        wanted = labels[image][matched.clamp(min=0)].where(matched >= 0, torch.tensor(-100))
        assert torch.equal(found["target"][image], wanted)
    assert found["centerness"].max() > 0.8
    assert torch.equal(found["centerness"] > 0, found["positive"])
    empty = [torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64), *given[2:]]
    assert not centred_anchors(empty, None, None)(*empty)["centerness"].any()
    with pytest.raises(KDError, match="centred_anchors takes boxes, labels, anchors and the levels' maps"):
        centred_anchors(given[:3], None, None)
