"""Losses on the regions of a segmentation: what a student's features look like within each class of an image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, hidden, shape
from kd_core.ranges import PositiveInt

COUNT_EPSILON = 1e-6
"""What the authors of IFVD add to the number of pixels that they divide by."""


@LOSSES("ifvd")
@mean_over_samples
def ifvd(student: Tensor, teacher: Tensor, target: Tensor, *, num_classes: PositiveInt) -> Tensor:
    """Intra-class feature variation: how far each pixel's features point away from its class's mean in the image.

    student (B, Cs, H, W), teacher (B, Ct, H, W) features; target (B, h, w) labels, brought to H x W by nearest
    neighbour; pixels whose label is none of 0 .. ``num_classes`` - 1 (void) add 0 -> scalar: the squared difference of
    the cosines between feature and class mean, the mean over all B x H x W pixels, void ones included. KDError where
    shapes do not fit.
    Wang et al., IFVD, ECCV 2020; checked against YukangWang/IFVD.
    """
    student, teacher = same_places(student, teacher)
    members = membership(labels_at(target, student), num_classes)
    places = members.any(1).view(len(student), *student.shape[2:])
    student, teacher = hidden(places, student, teacher, dim=1)
    gap = _variation(student, members) - _variation(teacher, members)
    return torch.where(members.any(1), gap, 0.0).square().mean()


def _variation(features: Tensor, members: Tensor) -> Tensor:
    """(B, C, H, W) features, (B, K, N) members -> (B, N) cosines, 0 where a pixel is of no class.

    Products with the members, where scattering would add up in an order that changes from run to run on a GPU.
    """
    features, shares = features.flatten(2), members.to(features.dtype)
    means = features @ shares.mT / (shares.sum(2)[:, None] + COUNT_EPSILON)
    return F.cosine_similarity(features, means @ shares, dim=1)


def same_places(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in full precision. KDError where they are not feature maps (B, C, H, W), or differ in more than C."""
    if student.ndim != 4 or student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        raise KDError(
            f"student {shape(student)} and teacher {shape(teacher)} must be (B, C, H, W) and differ in nothing but C",
            hint="resize one, for one with `module: !call:torch.nn.AvgPool2d {kernel_size: 2}`",
            path="student",
        )
    return as_float32(student), as_float32(teacher)


def labels_at(target: Tensor, features: Tensor) -> Tensor:
    """The label of each place of ``features`` (B, C, H, W), by nearest neighbour from target (B, h, w): (B, H x W)."""
    if target.ndim != 3 or len(target) != len(features):
        raise KDError(
            f"target {shape(target)} must be labels (B, h, w) with the B of student {shape(features)}", path="target"
        )
    labels = target[:, None].to(torch.float32)  # exact: labels are below 2**24
    return F.interpolate(labels, features.shape[2:], mode="nearest").long().flatten(1)


def membership(labels: Tensor, num_classes: int) -> Tensor:
    """(B, N) labels -> (B, num_classes, N), True where a place is of the class."""
    return labels[:, None] == torch.arange(num_classes, device=labels.device)[:, None]
