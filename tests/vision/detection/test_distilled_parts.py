"""Adapters for detectors on torchvision's own: where its transform puts the boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kd_core.adapters import boxes_on_maps


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
