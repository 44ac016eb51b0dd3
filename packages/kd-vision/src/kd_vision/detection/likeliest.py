"""The last step of an R-CNN, from scores and offsets to boxes, of the likeliest boxes only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

SHARE = 10
"""How many boxes are looked at first for each that is wanted."""
SMALLEST = 1e-2
"""The least side in pixels of a box that is kept, torchvision's."""


def likeliest(
    heads: RoIHeads,
    class_logits: Tensor,
    box_regression: Tensor,
    proposals: list[Tensor],
    image_sizes: Sequence[tuple[int, int]],
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Boxes, scores and labels of each image: what ``heads.postprocess_detections`` gives, without its waste.

    torchvision suppresses among all boxes of all classes and then keeps the ``detections_per_img`` likeliest. A box is
    suppressed by likelier ones alone, so that nothing below the last that is kept need be looked at: the likeliest are
    decoded and suppressed, and four times as many where too few are left.
    """
    counts = [len(boxes) for boxes in proposals]
    parts = zip(
        class_logits.softmax(-1)[:, 1:].split(counts),
        box_regression.unflatten(1, (-1, 4))[:, 1:].split(counts),
        proposals,
        image_sizes,
        strict=True,
    )
    found = [_of_image(heads, *part) for part in parts]
    boxes, scores, labels = (list(values) for values in zip(*found, strict=True))
    return boxes, scores, labels


def _of_image(
    heads: Any, scores: Tensor, offsets: Tensor, proposals: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of one image: ``scores`` (proposals, classes), ``offsets`` (proposals, classes, 4)."""
    likely = torch.where(scores.flatten() > heads.score_thresh)[0]
    wanted = SHARE * heads.detections_per_img
    while True:
        chosen = scores.flatten()[likely].topk(min(wanted, len(likely))).indices
        row, label = likely[chosen] // scores.shape[1], likely[chosen] % scores.shape[1]
        boxes = heads.box_coder.decode_single(offsets[row, label], proposals[row])
        boxes = clip_boxes_to_image(boxes, size)
        kept = remove_small_boxes(boxes, SMALLEST)
        boxes, row, label = boxes[kept], row[kept], label[kept]
        kept = batched_nms(boxes, scores[row, label], label, heads.nms_thresh)[: heads.detections_per_img]
        if len(kept) == heads.detections_per_img or wanted >= len(likely):
            return boxes[kept], scores[row, label][kept], label[kept] + 1
        wanted *= 4
