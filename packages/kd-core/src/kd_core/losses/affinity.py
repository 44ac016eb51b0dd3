"""Knowledge adaptation with affinity distillation (KTAAD): a student learns the code of the teacher's auto-encoder.

He et al., *Knowledge Adaptation for Efficient Semantic Segmentation*, CVPR 2019 (arXiv 1903.04688). Its authors
published no code; all are checked against yoshitomo-matsubara/torchdistill. The auto-encoder is the adapter
``paraphraser``, the student's adapters are each a ``projector``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.losses.closed_form import SHORTEST, unit
from kd_core.losses.reduction import mean_over_samples, over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, same_shape
from kd_core.ranges import NormOrder


@LOSSES("knowledge_adaptation")
@mean_over_samples
def knowledge_adaptation(student: Tensor, teacher: Tensor, *, p: NormOrder = 1.0, q: NormOrder = 2.0) -> Tensor:
    """KTAAD's adaptation: distance of each sample's adapted features from the teacher's code, both of ``q``-norm 1.

    student, teacher (B, ...) of one shape, flattened -> scalar: with ``p`` 1 the mean absolute difference over all
    elements, else the mean over B of the difference's ``p``-norm. A sample of zeros stays one and has no gradient (the
    reference divides by 0). KDError where the shapes differ, or p or q is below 1.
    He et al., CVPR 2019, section 3.1; checked against yoshitomo-matsubara/torchdistill (KTALoss).
    """
    student, teacher = same_shape(student, teacher, dim=1)
    ours, target = (_scaled(tensor.flatten(1), q) for tensor in (student, teacher))
    if p == 1:
        return F.l1_loss(ours, target)
    return torch.linalg.vector_norm(ours - target, p, dim=1).mean()


@LOSSES("affinity")
@mean_over_samples
def affinity(student: Tensor, teacher: Tensor) -> Tensor:
    """KTAAD's affinity: how strongly each pair of positions is active together, channel by channel.

    student, teacher (B, C, H, W) of one shape -> scalar: with s and t a channel's H x W numbers, L2-normalised,
    the Frobenius norm of s s^T - t t^T divided by H x W, summed over the channels, the mean over B. It is computed as
    |s - t| |s + t| / sqrt(2), in memory that grows with H x W, not with its square. A channel of zeros stays one and
    has no gradient (the reference divides by 0). KDError where the shapes differ.
    He et al., CVPR 2019, section 3.2; checked against yoshitomo-matsubara/torchdistill (AffinityLoss).
    """
    student, teacher = same_shape(student, teacher, dim=2)
    ours, target = (unit(tensor.flatten(2)) for tensor in (student, teacher))
    apart, along = (torch.linalg.vector_norm(tensor, dim=2) for tensor in (ours - target, ours + target))
    return (apart * along).sum(1).mean() / (math.sqrt(2) * ours.shape[2])


@LOSSES("norm_penalty")
@over_batch
def norm_penalty(input: Tensor, *, p: NormOrder = 1.0) -> Tensor:
    """The norm of a tensor: KTAAD keeps the code of its auto-encoder small and sparse with it.

    input of any shape -> scalar, the ``p``-norm of all its elements together, those of all samples: with ``p`` 1 it
    grows with the batch. KDError where p is below 1.
    He et al., CVPR 2019, section 3.1; checked against yoshitomo-matsubara/torchdistill (RegularizationLoss).
    """
    return torch.linalg.vector_norm(as_float32(input), p)


def _scaled(rows: Tensor, order: float) -> Tensor:
    """``rows`` with vectors of that norm 1 along the last dimension; zeros stay zeros, without a gradient."""
    if order == 2:
        return unit(rows)
    lengths = torch.linalg.vector_norm(rows, order, dim=-1, keepdim=True)
    return rows / lengths.masked_fill(lengths < SHORTEST, torch.inf)
