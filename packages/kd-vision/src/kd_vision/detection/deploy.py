"""Detectors without proposals as functions of one tensor: what is exported and measured, and what detections it means.

torchvision's detectors end with loops whose lengths depend on data, which no exporter follows for images of any size.
What comes before is exported: the network, anchors, decoded boxes and scores. Choosing among them is left to
:func:`detections`, or to code of one's own that does the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image

from kd_core.errors import KDError

DENSE = (RetinaNet, FCOS, SSD)


def network_input(model: nn.Module, images: Sequence[Tensor]) -> Tensor:
    """Images in [0, 1] of any sizes as the network takes them, (B, 3, H, W): normalised, scaled and padded.

    KDError for another model than RetinaNet, FCOS and SSD.
    """
    if not isinstance(model, DENSE):
        hint = "RetinaNet, FCOS, SSD and SSDLite can be: they choose among boxes only at their end"
        raise KDError(f"{type(model).__name__} cannot be exported or profiled as one graph", hint=hint)
    transform: Any = model.transform
    batch, _ = transform(list(images), None)
    return batch.tensors


def boxes_and_scores(model: Any, tensors: Tensor) -> Tensor:
    """Of each anchor its box and its scores, (B, anchors, 4 + labels), for what :func:`network_input` gives.

    Boxes are x1, y1, x2, y2 as shares of the width and the height of ``tensors``, and may leave them. Scores are in
    [0, 1], of all labels, the background's first.
    """
    batch, height, width = tensors.shape[0], tensors.shape[2], tensors.shape[3]
    features = list(model.backbone(tensors).values())
    outputs = model.head(features)
    one = ImageList(tensors[:1], [(height, width)])
    anchors = model.anchor_generator(one, [level[:1] for level in features])[0].expand(batch, -1, -1)
    deltas = outputs["bbox_regression"]
    if isinstance(model, FCOS):
        scores = (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()
        boxes = model.box_coder.decode(deltas, anchors)
    else:
        scores = outputs["cls_logits"]
        scores = scores.softmax(-1) if isinstance(model, SSD) else scores.sigmoid()
        boxes = model.box_coder.decode_single(deltas.flatten(0, 1), anchors.flatten(0, 1)).unflatten(0, (batch, -1))
    sides = torch.stack([torch.full_like(boxes[..., 0], side) for side in (width, height, width, height)], -1)
    return torch.cat([boxes / sides, scores], -1)


def facts(model: Any) -> dict[str, Any]:
    """What a file says of its input and output, in plain values."""
    transform: GeneralizedRCNNTransform = model.transform
    scaled = {"shorter_side": list(transform.min_size), "longer_side": transform.max_size}
    return {
        "scaling": {"size": list(transform.fixed_size)} if transform.fixed_size else scaled,
        "mean": list(transform.image_mean),
        "std": list(transform.image_std),
        "padded_to": transform.size_divisible,
        "output": "of each anchor x1, y1, x2, y2 as shares of the input's width and height, and a score of each label",
        "score_thresh": model.score_thresh,
        "nms_thresh": model.nms_thresh,
        "detections_per_img": model.detections_per_img,
        "topk_candidates": model.topk_candidates,
    }


def detections(
    values: Tensor,
    size: tuple[int, int],
    *,
    input_size: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    detections_per_img: int,
    scaled: tuple[int, int],
    **_: Any,
) -> Mapping[str, Tensor]:
    """Boxes, scores and labels of an image of ``size`` (height, width), of one row of :func:`boxes_and_scores`.

    ``input_size`` is the height and width of the input, ``scaled`` those of the image in it without padding, and the
    other values those of :func:`facts`. torchvision looks at the ``topk_candidates`` likeliest of each level only;
    where fewer reach the threshold, the detections are the same.
    """
    scores = values[:, 5:]
    anchor, label = torch.where(scores > score_thresh)
    boxes = values[anchor, :4] * values.new_tensor([input_size[1], input_size[0]] * 2)
    boxes, scores = clip_boxes_to_image(boxes, scaled), scores[anchor, label]
    kept = batched_nms(boxes, scores, label, nms_thresh)[:detections_per_img]
    ratio = values.new_tensor([size[1] / scaled[1], size[0] / scaled[0]] * 2)
    return {"boxes": boxes[kept] * ratio, "scores": scores[kept], "labels": label[kept] + 1}
