"""How much an anchor counts in localization distillation: a head's confidence, and the region near an object.

Zheng et al., *Localization Distillation for Dense Object Detection*, CVPR 2022 (arXiv 2102.12252); checked against
HikariTJU/LD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.adapters.anchors import iou
from kd_core.adapters.atss import distances, level_sizes, nearest_anchors, thresholds
from kd_core.adapters.registry import ADAPTERS
from kd_core.errors import KDError
from kd_core.ranges import Fraction, PositiveInt

SMALL = 1e-6
"""The least area, and the least squared length, that something is divided by."""


class Confidence(nn.Module):
    """Logits (B, A, K) and perhaps a mask (B, A) -> (B, A), without a gradient."""

    def forward(self, logits: Tensor, mask: Tensor | None = None) -> Tensor:
        sure = logits.detach().amax(-1).sigmoid()
        return sure if mask is None else sure.masked_fill(mask == 0, 0.0)


@ADAPTERS("confidence")
def confidence(inputs: list[Any], match: Tensor | None, out_features: int | None) -> nn.Module:
    """The probability of the most probable class at each anchor, without a gradient: the importance of ``ld``.

    Inputs: logits (B, A, K), a sigmoid a class, and perhaps a mask (B, A), such as which anchors are positive, zero
    where the confidence is to be 0 -> (B, A). KDError where the inputs are something else.
    """
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= 2 or match is not None or out_features is not None:
        hint = "write `inputs: [student.head.classification_head, adapters.matched/positive]`"
        raise KDError("confidence takes logits and perhaps a mask, and no width", hint=hint)
    return Confidence()


class ValuableRegion(nn.Module):
    """(boxes, anchors, maps) -> (B, A), see :func:`valuable_region`."""

    def __init__(self, nearest: int, low: float) -> None:
        super().__init__()
        self.nearest, self.low = nearest, low

    def forward(self, boxes: Tensor, anchors: Sequence[Tensor], maps: Any) -> Tensor:
        sizes = level_sizes(anchors[0], maps)
        return torch.stack([self._image(*image, sizes) for image in zip(boxes, anchors, strict=True)])

    def _image(self, boxes: Tensor, anchors: Tensor, sizes: list[int]) -> Tensor:
        """(A,): the largest IoU with a box in whose region an anchor lies."""
        if not len(boxes):
            return anchors.new_zeros(len(anchors))
        overlaps, nearness = iou(boxes, anchors), _nearness(boxes, anchors)
        threshold = thresholds(overlaps, nearest_anchors(distances(boxes, anchors), sizes, self.nearest))
        real = ((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1]))[:, None]
        region = (nearness >= self.low * threshold) & (nearness < threshold) & real
        return torch.where(region, overlaps, 0.0).amax(0)


def _nearness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(M, A): the share of an anchor that lies in a box, less the distance of the centres in units of both.

    The authors call it the distance-IoU; in their code it has the anchor's area where that has the union's.
    """
    low, high = torch.maximum(boxes[:, None, :2], anchors[:, :2]), torch.minimum(boxes[:, None, 2:], anchors[:, 2:])
    sides = (high - low).clamp(min=0)
    area = ((anchors[:, 2] - anchors[:, 0]) * (anchors[:, 3] - anchors[:, 1])).clamp(min=SMALL)
    low, high = torch.minimum(boxes[:, None, :2], anchors[:, :2]), torch.maximum(boxes[:, None, 2:], anchors[:, 2:])
    diagonal = (high - low).clamp(min=0).square().sum(2).clamp(min=SMALL)
    return sides[..., 0] * sides[..., 1] / area - distances(boxes, anchors) / diagonal


@ADAPTERS("valuable_region")
def valuable_region(
    inputs: list[Any],
    match: Tensor | None,
    out_features: int | None,
    *,
    nearest: PositiveInt = 9,
    low: Fraction = 0.25,
) -> nn.Module:
    """LD's valuable localization region: anchors that lie near an object and stand for none, with their IoU.

    Inputs: boxes (B, M, 4) of the adapter ``boxes_on_maps``; the wire ``student.anchor_generator``, B tensors (A, 4);
    and the levels' maps (a list or mapping), of which only the sizes are read -> (B, A): the IoU with a box, where the
    distance-IoU is below the box's threshold and at least ``low`` times that; 0 elsewhere. The threshold is the mean
    plus the standard deviation of the IoUs of the ``nearest`` anchors of each level. KDError where inputs do not fit.
    """
    if not isinstance(inputs, list) or len(inputs) != 3 or match is not None or out_features is not None:
        hint = "write `inputs: [adapters.truth/boxes, student.anchor_generator, student.backbone]`"
        raise KDError("valuable_region takes boxes, anchors and the levels' maps, and no width", hint=hint)
    return ValuableRegion(nearest, low)
