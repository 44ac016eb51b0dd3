"""GFL: a dense detector that predicts, for each side of a box, a distribution over its distance from a position.

Li et al., *Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object Detection*,
NeurIPS 2020 (arXiv 2006.04388); checked against the GFL head of jbwang1997/CrossKD, which is mmdetection's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from kd_core.adapters.atss import atss
from kd_core.losses.anchors import generalised_iou, overlap_of_pairs
from kd_vision.detection.parts import DENSE_OPTIONS, OPTIONS, group_norm

BOX_WEIGHT, DISTRIBUTION_WEIGHT = 2.0, 0.25
"""The weights of the losses of boxes and of distributions; that of classes has 1."""
BEYOND = 0.1
"""A side is at most this many strides less than the largest distance away from its position."""
BETA = 2.0
"""The power of the gap between a probability and its target in the quality focal loss."""


class StridedAnchors(AnchorGenerator):
    """One square anchor a position, ``scale`` strides wide, whose positions are whole strides.

    torchvision's divides the image by the size of the map, which rounds where a level does not go in.
    """

    def __init__(self, strides: Sequence[int], scale: int) -> None:
        super().__init__(tuple((scale * stride,) for stride in strides), ((1.0,),) * len(strides))
        self.strides = tuple(strides)

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """Anchors (H x W, 4) of each level, in place of ``strides`` by those that it has."""
        levels = zip(strides, self.strides, strict=True)
        own = [[torch.full_like(step, stride) for step in steps] for steps, stride in levels]
        return super().grid_anchors(grid_sizes, own)


class IntegralBoxes(nn.Module):
    """Logits of distances (..., 4, N) at positions -> boxes (..., 4): each side lies at the mean of its distribution.

    Distances are in strides, left, top, right and bottom. An anchor is ``scale`` strides wide.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def strides(self, anchors: Tensor) -> Tensor:
        """(..., 1) pixels."""
        return (anchors[..., 2:3] - anchors[..., :1]) / self.scale

    def decode_single(self, logits: Tensor, anchors: Tensor) -> Tensor:
        """Boxes x1, y1, x2, y2 in pixels."""
        strides = self.strides(anchors)
        return self.forward(logits, centres(anchors) / strides) * strides

    def forward(self, logits: Tensor, positions: Tensor) -> Tensor:
        """Boxes in strides, around ``positions`` (..., 2) in strides."""
        values = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
        distances = logits.softmax(-1) @ values
        return torch.cat((positions - distances[..., :2], positions + distances[..., 2:]), dim=-1)


def centres(boxes: Tensor) -> Tensor:
    """(..., 4) -> (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


class Distributions(nn.Module):
    """Maps (B, 4 x N, H, W) of all levels, each times a factor that it learns -> logits (B, A, 4, N)."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(levels))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scaled = [level * factor for level, factor in zip(maps, self.factors, strict=True)]
        rows = [level.flatten(2).mT.unflatten(2, (4, -1)) for level in scaled]
        return torch.cat(rows, dim=1)


class GFLRegressionHead(RetinaNetRegressionHead):
    """RetinaNet's head of boxes with N = ``reg_max`` + 1 logits a side."""

    def __init__(self, channels: int, levels: int, reg_max: int) -> None:
        super().__init__(channels, reg_max + 1, group_norm)
        self.distributions = Distributions(levels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """(B, C, H, W) of each level -> (B, A, 4, N)."""
        logits: Tensor = self.distributions([self.bbox_reg(self.conv(level)) for level in maps])
        return logits


class GFLHead(nn.Module):
    """Logits of classes (B, A, K) and of distances (B, A, 4, N), of one position on all levels after the other."""

    def __init__(self, channels: int, num_classes: int, levels: int, reg_max: int) -> None:
        super().__init__()
        self.classification_head = RetinaNetClassificationHead(channels, 1, num_classes, norm_layer=group_norm)
        self.regression_head = GFLRegressionHead(channels, levels, reg_max)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {"cls_logits": self.classification_head(maps), "bbox_regression": self.regression_head(maps)}


class GFL(RetinaNet):
    """RetinaNet with GFL's head, losses and choice of positions: ATSS.

    Losses: ``classification`` (quality focal), ``bbox_regression`` (generalised IoU) and ``distribution`` (focal), with
    the weights 1, 2 and 0.25.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        strides: Sequence[int],
        anchor_scale: int = 8,
        reg_max: int = 16,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        **options: Any,
    ) -> None:
        channels: Any = backbone.out_channels
        super().__init__(
            backbone,
            num_classes,
            anchor_generator=StridedAnchors(strides, anchor_scale),
            head=GFLHead(channels, num_classes, len(strides), reg_max),
            nms_thresh=nms_thresh,
            detections_per_img=detections_per_img,
            **options,
        )
        self.box_coder = IntegralBoxes(anchor_scale)

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """The three losses, of what the head gives and the images' boxes and labels."""
        return losses(targets, head_outputs, anchors, self.box_coder)


OPTIONS[GFL] = DENSE_OPTIONS


def losses(
    targets: Sequence[Mapping[str, Tensor]],
    outputs: Mapping[str, Tensor],
    anchors: Sequence[Tensor],
    coder: IntegralBoxes,
) -> dict[str, Tensor]:
    """GFL's three losses of what its head gives for images with ``boxes`` (n, 4) and ``labels`` (n,).

    That of classes is divided by the number of positive positions, of an image at least 1; the others weigh a position
    by how sure the head is of a class there, and are divided by the sum of the weights, at least 1.
    """
    strides = coder.strides(anchors[0])
    image, position, boxes, labels = assigned(targets, anchors, strides)
    logits, sides = outputs["cls_logits"], outputs["bbox_regression"][image, position]
    places, truth = centres(anchors[0])[position] / strides[position], boxes / strides[position]
    found = coder(sides, places)
    quality = torch.zeros_like(logits)
    quality[image, position, labels] = overlap_of_pairs(found.detach(), truth)
    sure = logits.detach()[image, position].amax(-1).sigmoid()
    total = sure.sum().clamp(min=1)
    number = image.bincount(minlength=len(anchors)).clamp(min=1).sum()
    return {
        "classification": quality_focal(logits, quality).sum() / number,
        "bbox_regression": BOX_WEIGHT * (sure * (1 - generalised_iou(found, truth))).sum() / total,
        "distribution": DISTRIBUTION_WEIGHT * (sure * distribution_focal(sides, places, truth)).sum() / total,
    }


def assigned(
    targets: Sequence[Mapping[str, Tensor]], anchors: Sequence[Tensor], strides: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the P positive anchors of a batch the image (P,), the row (P,), the true box (P, 4) and the label (P,).

    A level is told by its ``strides`` (A, 1).
    """
    sizes = torch.unique_consecutive(strides, return_counts=True)[1].tolist()
    parts = []
    for number, (target, rows) in enumerate(zip(targets, anchors, strict=True)):
        which = atss(target["boxes"], rows, sizes)
        (position,) = torch.where(which >= 0)
        box = which[position]
        parts.append((torch.full_like(box, number), position, target["boxes"][box], target["labels"][box]))
    image, position, boxes, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return image, position, boxes, labels


def quality_focal(logits: Tensor, quality: Tensor) -> Tensor:
    """Quality focal loss: cross-entropy of each class's probability, times the squared gap to ``quality``.

    Logits and ``quality`` in [0, 1], the IoU of the predicted box at the true class and 0 elsewhere -> the same shape.
    """
    entropies = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return entropies * (quality - logits.sigmoid()).abs().pow(BETA)


def distribution_focal(logits: Tensor, places: Tensor, truth: Tensor) -> Tensor:
    """Distribution focal loss: cross-entropy of the two distances about the true one, by their nearness to it.

    Logits (P, 4, N), positions (P, 2) and boxes (P, 4), in strides -> (P,), the mean over the sides.
    """
    wanted = torch.cat((places - truth[:, :2], truth[:, 2:] - places), dim=1)
    wanted = wanted.clamp(0, logits.shape[2] - 1 - BEYOND)
    below = wanted.long()
    nearer = (below + 1 - wanted, wanted - below)
    entropies = -logits.log_softmax(2)
    parts = (entropies.gather(2, (below + step)[..., None])[..., 0] * share for step, share in enumerate(nearer))
    return sum(parts, torch.zeros_like(wanted)).mean(1)
