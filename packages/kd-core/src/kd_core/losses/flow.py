"""The flow of solution procedure: how the features of one depth go with those of the next."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, layer_pairs, shape


@LOSSES("fsp")
@mean_over_samples
def fsp(
    student: list[Tensor],
    teacher: list[Tensor],
    *,
    pooling: Literal["mean", "max"] = "mean",
    distance: Literal["mse", "norm"] = "mse",
) -> Tensor:
    """Mean squared difference of the matrices of inner products between the channels of consecutive feature maps.

    student, teacher: lists of as many feature maps (B, C, H, W), at least two, shallow ones first, C equal where they
    are compared -> scalar: of each two neighbours of a list the (B, C, C') inner products over the positions, divided
    by their number, the larger map pooled to the smaller; the mean over B, C and C', summed over the neighbours. With
    ``distance: norm`` the lengths of the columns (over C) are added up instead, and averaged over B alone. H and W may
    differ between student and teacher. KDError where B, C or the numbers of feature maps differ.
    Yim, Joo, Bae & Kim, CVPR 2017, section 3.2, whose authors published no code; checked against
    HobbitLong/RepDistiller, which averages where the paper takes maxima (``pooling: max``), and with ``distance: norm``
    against yoshitomo-matsubara/torchdistill (FSPLoss).
    """
    pairs = layer_pairs(student, teacher)
    if isinstance(student, Tensor) or len(pairs) < 2:
        raise KDError(
            "fsp takes lists of at least two feature maps: a flow is from one to the next",
            hint="write `student: student.@features`, or a list of wires",
            path="student",
        )
    for number, (ours, theirs) in enumerate(pairs):
        if ours.ndim != 4 or theirs.ndim != 4 or ours.shape[:2] != theirs.shape[:2]:
            message = f"student/{number} {shape(ours)} and teacher/{number} {shape(theirs)} must be (B, C, H, W)"
            hint = "flows are matrices of C x C': take models of one width, or bring the student to it with adapters"
            raise KDError(f"{message} with the same B and C", hint=hint, path="student")
    flows = ((_flows(list(maps), pooling)) for maps in zip(*pairs, strict=True))
    compare = F.mse_loss if distance == "mse" else _column_lengths
    differences = [compare(ours, theirs) for ours, theirs in zip(*flows, strict=True)]
    return sum(differences[1:], start=differences[0])


def _flows(maps: list[Tensor], pooling: str) -> list[Tensor]:
    """The (B, C, C') matrices of each two neighbours."""
    return [_flow(as_float32(first), as_float32(second), pooling) for first, second in pairwise(maps)]


def _column_lengths(ours: Tensor, theirs: Tensor) -> Tensor:
    """The lengths of the columns of the difference of (B, C, C') matrices, added up over C', the mean over B."""
    return torch.linalg.vector_norm(ours - theirs, dim=1).sum() / len(ours)


def _flow(first: Tensor, second: Tensor, pooling: str) -> Tensor:
    size = (min(first.shape[2], second.shape[2]), min(first.shape[3], second.shape[3]))
    pool = F.adaptive_max_pool2d if pooling == "max" else F.adaptive_avg_pool2d
    first, second = (features if features.shape[2:] == size else pool(features, size) for features in (first, second))
    return first.flatten(2) @ second.flatten(2).mT / (size[0] * size[1])
