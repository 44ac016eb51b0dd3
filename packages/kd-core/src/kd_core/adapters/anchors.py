"""What a dense detector says of its anchors, one row an anchor, and which of them stand for objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, shape
from kd_core.errors import KDError
from kd_core.ranges import Fraction, PositiveInt

LARGEST = math.log(1000 / 16)
"""The logarithm of how many times larger than its anchor a box may be, as in torchvision."""
UNMATCHED = -100
"""The label of an anchor that stands for no object."""


class AnchorRows(nn.Module):
    """Maps (B, K x width, H, W) of several levels -> (B, anchors, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, maps: Any) -> Tensor:
        rows = [
            tensor.unflatten(1, (-1, self.width)).permute(0, 3, 4, 1, 2).flatten(1, 3) for tensor in each_level(maps)
        ]
        return torch.cat(rows, dim=1)


def each_level(maps: Any) -> list[Tensor]:
    """One map, or those of a list or a mapping."""
    if isinstance(maps, Tensor):
        return [maps]
    return list(maps.values()) if isinstance(maps, Mapping) else list(maps)


@ADAPTERS("anchor_rows")
def anchor_rows(inputs: list[Any], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """The outputs of a dense detector's last layer on all levels, one row an anchor.

    A list (or a mapping) of maps (B, K x D, H, W), K anchors a position -> (B, A, D), D being ``out_features`` or the
    width of such rows, ``match``: the number of classes, or 4 for boxes. The rows stand in the order of torchvision's
    anchors: level, row, column, anchor. KDError where the input is something else, or its channels are not divisible
    by D.
    """
    if not isinstance(inputs, list) or len(inputs) != 1 or (match is None) == (out_features is None):
        hint = "write `out_features: 4` for boxes, or `match: teacher.head.regression_head`"
        raise KDError("anchor_rows takes one input and a width", hint=hint)
    width = match.shape[-1] if match is not None else out_features
    assert width is not None
    for source in each_level(inputs[0]):
        if feature_map("anchor_rows", source).shape[1] % width:
            raise KDError(f"{shape(source)} has no multiple of {width} channels", path="out_features")
    return AnchorRows(width)


class MatchedAnchors(nn.Module):
    """(boxes, labels, anchors) -> the fields of :func:`matched_anchors`."""

    def __init__(self, foreground: float, background: float, low_quality: bool) -> None:
        super().__init__()
        self.foreground, self.background, self.low_quality = foreground, background, low_quality

    def forward(self, boxes: Tensor, labels: Tensor, anchors: Sequence[Tensor]) -> dict[str, Tensor]:
        images = [self._image(*image) for image in zip(boxes, labels, anchors, strict=True)]
        target, positive, mask = (torch.stack(part) for part in zip(*images, strict=True))
        return {"target": target, "positive": positive, "mask": mask}

    def _image(self, boxes: Tensor, labels: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(A,) each: the labels, which anchors are positive, and which are not ignored."""
        if not len(boxes):
            nothing = anchors.new_zeros(len(anchors), dtype=torch.bool)
            return labels.new_full((len(anchors),), UNMATCHED), nothing, ~nothing
        real = ((boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1]))[:, None]
        overlaps = torch.where(real, iou(boxes, anchors), -1.0)
        best, which = overlaps.max(0)
        positive = best >= self.foreground
        ignored = (best >= self.background) & ~positive
        if self.low_quality:  # the best anchors of each box, however small the overlap
            forced = ((overlaps == overlaps.amax(1, keepdim=True)) & real).any(0)
            positive, ignored = positive | forced, ignored & ~forced
        return labels[which].where(positive, UNMATCHED), positive, ~ignored


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """(M, 4), (A, 4) -> (M, A), area of the intersection over that of the union; 0 where both have no area."""
    low = torch.maximum(boxes[:, None, :2], others[:, :2])
    high = torch.minimum(boxes[:, None, 2:], others[:, 2:])
    sides = (high - low).clamp(min=0)
    areas = [(each[:, 2] - each[:, 0]) * (each[:, 3] - each[:, 1]) for each in (boxes, others)]
    both = sides[..., 0] * sides[..., 1]
    union = areas[0][:, None] + areas[1] - both
    return torch.where(union > 0, both / union, 0.0)


@ADAPTERS("matched_anchors")
def matched_anchors(
    inputs: list[Any],
    match: Tensor | None,
    out_features: int | None,
    *,
    foreground: Fraction = 0.5,
    background: Fraction = 0.4,
    low_quality: bool = True,
) -> nn.Module:
    """Which anchors of a dense detector stand for an object, as torchvision's detectors decide it when they learn.

    Inputs ``boxes`` (B, M, 4) and ``labels`` (B, M) of the adapter ``boxes_on_maps``, and the wire
    ``student.anchor_generator``, B tensors (A, 4). Fields: ``positive`` bool (B, A), true where the IoU with a box is
    at least ``foreground`` or, with ``low_quality``, where no anchor fits a box better; ``mask`` bool (B, A), false for
    the others whose IoU is at least ``background``; ``target`` int64 (B, A), the label of the box of a positive anchor,
    -100 for all others. The values are RetinaNet's; the region proposals of Faster R-CNN have 0.7 and 0.3. KDError
    where the inputs are something else or ``background`` is above ``foreground``.
    """
    if not isinstance(inputs, list) or len(inputs) != 3 or match is not None or out_features is not None:
        hint = "write `inputs: [adapters.truth/boxes, adapters.truth/labels, student.anchor_generator]`"
        raise KDError("matched_anchors takes boxes, labels and anchors, and no width", hint=hint)
    if background > foreground:
        raise KDError(f"background must be at most foreground, {foreground}, not {background}", path="background")
    return MatchedAnchors(foreground, background, low_quality)


class DistantBoxes(nn.Module):
    """Distances (B, A, 4) of the sides in units of B anchors (A, 4) -> boxes (B, A, 4); none is below 0."""

    def forward(self, distances: Tensor, anchors: Sequence[Tensor]) -> Tensor:
        boxes = torch.stack(list(anchors))
        sides = boxes[..., 2:] - boxes[..., :2]
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        away = distances.clamp(min=0) * torch.cat((sides, sides), dim=-1)
        return torch.cat((centres - away[..., :2], centres + away[..., 2:]), dim=-1)


class DecodedBoxes(nn.Module):
    """Offsets (B, A, 4) and B anchors (A, 4) -> boxes (B, A, 4)."""

    def forward(self, offsets: Tensor, anchors: Sequence[Tensor]) -> Tensor:
        boxes = torch.stack(list(anchors))
        sides = boxes[..., 2:] - boxes[..., :2]
        centres = boxes[..., :2] + sides / 2 + offsets[..., :2] * sides
        halves = offsets[..., 2:].clamp(max=LARGEST).exp() * sides / 2
        return torch.cat((centres - halves, centres + halves), dim=-1)


@ADAPTERS("decoded_boxes")
def decoded_boxes(
    inputs: list[Any],
    match: Tensor | None,
    out_features: int | None,
    *,
    form: Literal["offsets", "distances"] = "offsets",
) -> nn.Module:
    """The boxes that a RetinaNet's head means, its offsets applied to the anchors; or, from ``distances``, an FCOS's.

    Inputs: offsets (B, A, 4), and the wire ``student.anchor_generator``, B tensors (A, 4) -> boxes (B, A, 4), x1 y1 x2
    y2 in pixels of the padded batch. KDError where the inputs are something else. As torchvision's ``BoxCoder`` with
    its four weights at 1, or its ``BoxLinearCoder``, whose distances below 0 are 0.
    """
    if not isinstance(inputs, list) or len(inputs) != 2 or match is not None or out_features is not None:
        hint = "write `inputs: [teacher.head.regression_head, student.anchor_generator]`"
        raise KDError("decoded_boxes takes offsets and anchors, and no width", hint=hint)
    return DecodedBoxes() if form == "offsets" else DistantBoxes()
