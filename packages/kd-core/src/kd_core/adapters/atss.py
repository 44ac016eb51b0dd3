"""Which anchors of a dense detector stand for an object, by adaptive training sample selection (ATSS).

Zhang et al., *Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training Sample Selection*,
CVPR 2020 (arXiv 1912.02424); checked against HikariTJU/LD.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.adapters.anchors import UNMATCHED, each_level, iou
from kd_core.adapters.registry import ADAPTERS
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

INSIDE = 0.01
"""How many pixels a positive anchor's centre is at least away from the sides of its box."""


def level_sizes(anchors: Tensor, maps: Any) -> list[int]:
    """How many of the anchors (A, 4) each level has, by the maps (B, C, H, W); KDError where they do not fit."""
    places = [level.shape[-2] * level.shape[-1] for level in each_level(maps)]
    each, rest = divmod(len(anchors), sum(places))
    if rest:
        raise KDError(f"{len(anchors)} anchors are no multiple of the {sum(places)} positions of the maps")
    return [each * count for count in places]


def distances(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(M, 4), (A, 4) -> (M, A): squared distances of the centres."""
    centres = [(corners[:, :2] + corners[:, 2:]) / 2 for corners in (boxes, anchors)]
    return (centres[0][:, None] - centres[1]).square().sum(2)


def nearest_anchors(away: Tensor, sizes: Sequence[int], nearest: int) -> Tensor:
    """(M, A) distances -> (M, C): the indices of the anchors nearest each box, ``nearest`` of each level."""
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    levels = zip(away.split(list(sizes), 1), sizes, starts, strict=True)
    found = [level.topk(min(nearest, size), dim=1, largest=False).indices + start for level, size, start in levels]
    return torch.cat(found, dim=1)


def thresholds(overlaps: Tensor, near: Tensor) -> Tensor:
    """(M, 1): mean and standard deviation, added up, of the IoUs (M, A) of the anchors ``near`` (M, C) a box."""
    chosen = overlaps.gather(1, near)
    spread = chosen.std(1, keepdim=True) if chosen.shape[1] > 1 else torch.zeros_like(chosen)
    return chosen.mean(1, keepdim=True) + spread


def atss(boxes: Tensor, anchors: Tensor, sizes: Sequence[int], nearest: int = 9) -> Tensor:
    """Of each anchor the index of its box, -1 where it has none: boxes (M, 4), anchors (A, 4) -> int64 (A,).

    ``sizes`` are the numbers of anchors of each level. A box has those of the ``nearest`` anchors of each level whose
    IoU is at least the mean and standard deviation of these, added up, and whose centre is inside it; an anchor of
    several boxes goes to that with the largest IoU.
    """
    if not len(boxes):
        return torch.full((len(anchors),), -1, device=anchors.device)
    overlaps = iou(boxes, anchors)
    near = nearest_anchors(distances(boxes, anchors), sizes, nearest)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    away = torch.cat((centres - boxes[:, None, :2], boxes[:, None, 2:] - centres), dim=2).amin(2)
    chosen = torch.zeros_like(overlaps, dtype=torch.bool).scatter(1, near, True)
    chosen &= (overlaps >= thresholds(overlaps, near)) & (away > INSIDE)
    best, which = overlaps.masked_fill(~chosen, -1.0).max(0)
    return which.masked_fill(best < 0, -1)


class ATSSAnchors(nn.Module):
    """(boxes, labels, anchors, maps) -> the fields of :func:`atss_anchors`."""

    def __init__(self, nearest: int) -> None:
        super().__init__()
        self.nearest = nearest

    def forward(self, boxes: Tensor, labels: Tensor, anchors: Sequence[Tensor], maps: Any) -> dict[str, Tensor]:
        found = [self._image(*image, maps) for image in zip(boxes, labels, anchors, strict=True)]
        target, positive = (torch.stack(part) for part in zip(*found, strict=True))
        return {"target": target, "positive": positive}

    def _image(self, boxes: Tensor, labels: Tensor, anchors: Tensor, maps: Any) -> tuple[Tensor, Tensor]:
        """(A,) each: the labels, and which anchors are positive."""
        real = (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])
        which = atss(boxes[real], anchors, level_sizes(anchors, maps), self.nearest)
        unmatched = labels.new_full((1,), UNMATCHED)  # the last, which -1 means
        return torch.cat((labels[real], unmatched))[which], which >= 0


@ADAPTERS("atss_anchors")
def atss_anchors(
    inputs: list[Any], match: Tensor | None, out_features: int | None, *, nearest: PositiveInt = 9
) -> nn.Module:
    """Which anchors of a dense detector stand for an object, as ``gfl`` decides it when it learns: ATSS.

    Inputs ``boxes`` (B, M, 4) and ``labels`` (B, M) of the adapter ``boxes_on_maps``; the wire
    ``student.anchor_generator``, B tensors (A, 4); and the levels' maps (a list or mapping), of which only the sizes
    are read. Fields: ``positive`` bool (B, A); ``target`` int64 (B, A), the label of the box of a positive anchor, -100
    for all others. Candidates are the ``nearest`` anchors of each level to a box's centre. KDError where the inputs are
    something else.
    """
    if not isinstance(inputs, list) or len(inputs) != 4 or match is not None or out_features is not None:
        hint = (
            "write `inputs: [adapters.truth/boxes, adapters.truth/labels, student.anchor_generator, student.backbone]`"
        )
        raise KDError("atss_anchors takes boxes, labels, anchors and the levels' maps, and no width", hint=hint)
    return ATSSAnchors(nearest)
