"""Which positions of a detector without anchors stand for an object, as FCOS decides it.

Tian et al., *FCOS: A Simple and Strong Anchor-free Object Detector*, TPAMI 2022 (arXiv 2006.09214); checked against
torchvision's FCOS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.adapters.anchors import UNMATCHED
from kd_core.adapters.atss import level_sizes
from kd_core.adapters.registry import ADAPTERS
from kd_core.errors import KDError
from kd_core.ranges import PositiveFloat

REACH = (4, 8)
"""The least and the largest distance of a box's farthest side, in strides: the first level has no least one, and the
last no largest."""


class CentredAnchors(nn.Module):
    """(boxes, labels, anchors, maps) -> the fields of :func:`centred_anchors`."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, boxes: Tensor, labels: Tensor, anchors: Sequence[Tensor], maps: Any) -> dict[str, Tensor]:
        found = [
            self._image(*image, level_sizes(anchors[0], maps)) for image in zip(boxes, labels, anchors, strict=True)
        ]
        target, positive, centerness = (torch.stack(part) for part in zip(*found, strict=True))
        return {"target": target, "positive": positive, "centerness": centerness}

    def _image(self, boxes: Tensor, labels: Tensor, anchors: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        """(A,) each: labels, which positions are positive, and how near the centre of their boxes they lie."""
        real = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        boxes, labels = boxes[real], labels[real]
        if not len(boxes):
            none = anchors.new_zeros(len(anchors))
            return labels.new_full((len(anchors),), UNMATCHED), none > 0, none
        places, strides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
        sides = torch.cat((places - boxes[:, None, :2], boxes[:, None, 2:] - places), dim=2)  # (M, A, 4)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        fits = (places - centres[:, None]).abs().amax(2) < self.radius * strides
        least, most = REACH[0] * strides, REACH[1] * strides
        least[: sizes[0]], most[-sizes[-1] :] = 0.0, math.inf
        farthest = sides.amax(2)
        fits &= (sides.amin(2) > 0) & (farthest > least) & (farthest < most)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None].masked_fill(~fits, math.inf)  # the smallest box has it
        smallest, which = areas.min(0)
        positive = smallest.isfinite()
        own = sides.clamp(min=0).gather(0, which[None, :, None].expand(1, -1, 4))[0]
        across, down = own[:, ::2], own[:, 1::2]
        near = (across.amin(1) / across.amax(1) * down.amin(1) / down.amax(1)).sqrt()
        return labels[which].where(positive, UNMATCHED), positive, torch.where(positive, near, 0.0)


@ADAPTERS("centred_anchors")
def centred_anchors(
    inputs: list[Any], match: Tensor | None, out_features: int | None, *, radius: PositiveFloat = 1.5
) -> nn.Module:
    """Which positions of an FCOS stand for an object, as torchvision's decides it when it learns.

    Inputs as those of ``atss_anchors``. Fields: ``positive`` bool (B, A); ``centerness`` float (B, A), 1 in the middle
    of the box and 0 on its border and where there is none; ``target`` int64 (B, A), the label of the box of a positive
    position, -100 for all others. A position is at most ``radius`` strides away from a box's centre. KDError where the
    inputs are something else.
    """
    if not isinstance(inputs, list) or len(inputs) != 4 or match is not None or out_features is not None:
        wires = "adapters.truth/boxes, adapters.truth/labels, student.anchor_generator, student.backbone"
        hint = f"write `inputs: [{wires}]`"
        raise KDError("centred_anchors takes boxes, labels, anchors and the levels' maps, and no width", hint=hint)
    return CentredAnchors(radius)
