"""Losses on feature maps, position by position: for segmentation, detection and other dense outputs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over, mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, divergences, masked_alike, same_shape, shape, valid_mask
from kd_core.ranges import Fraction, PositiveFloat

PAIRS = 2**20
"""The most similarities of a sample that are held at a time."""


def seen(mask: Tensor | None = None) -> Tensor | None:
    """The number of samples with an unmasked position."""
    return None if mask is None else (mask != 0).flatten(1).any(1).sum()


@LOSSES("cwd")
@mean_over(seen)
def cwd(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: PositiveFloat = 4.0,
    divergence: Literal["kl", "mse"] = "kl",
) -> Tensor:
    """Channel-wise distillation: where in the map each channel is active, as a distribution over the positions.

    student, teacher (B, C, H, W) of one shape, features or logits; mask (B, H, W), zero where a position is masked
    -> scalar: the softmax of each channel over the unmasked positions, its KL divergence from the teacher's (with
    ``divergence: mse`` the sum of squared differences), summed over the positions, the mean over the channels and the
    samples with an unmasked position (0 where none has one), times the squared temperature. KDError where shapes do not
    fit, there is one position, the divergence is unknown or the temperature not above 0.
    Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021 (arXiv 2011.13256);
    checked against irfanICMLL/TorchDistiller, which has no mask and with mse no temperature.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    if student.shape[2:].numel() < 2:
        raise KDError(f"cwd compares the positions of feature maps (B, C, H, W), and student {shape(student)} has one")
    counts = None if mask is None else valid_mask(mask, student, 1)
    ours, target = (_over_positions(tensor / temperature, counts) for tensor in masked_alike(student, teacher))
    kl = divergence == "kl"
    apart = divergences(target, ours).sum() if kl else (ours.exp() - target.exp()).square().sum()
    samples = len(student) if counts is None else counts.flatten(1).any(1).sum().clamp(min=1)
    return apart / samples / student.shape[1] * temperature**2


def _over_positions(maps: Tensor, counts: Tensor | None) -> Tensor:
    """(B, C, H, W) -> (B, C, H x W), the logarithms of each channel's softmax over the unmasked positions.

    The others have the probability 0 and no gradient. Where none counts, both models have the same distribution.
    """
    rows = maps.flatten(2)
    if counts is not None:  # not minus infinity, of which differences are NaN
        rows = rows.masked_fill(~counts.flatten(1)[:, None], torch.finfo(rows.dtype).min / 4)
    return rows.log_softmax(-1)


@LOSSES("skd_pairwise")
@mean_over_samples
def skd_pairwise(student: Tensor, teacher: Tensor, *, scale: Fraction = 0.5, norm_gradient: bool = False) -> Tensor:
    """Structured distillation, pair-wise: how similar the parts of an image are to one another.

    student (B, Cs, H, W), teacher (B, Ct, H, W) -> scalar: the maximum over patches of ``scale`` x H by ``scale`` x W
    gives N nodes a sample (2 x 2 where 0.5 leaves no rest); the mean squared difference of the N x N cosines between
    them. As in the authors' code no gradient passes through the nodes' lengths unless ``norm_gradient``. Channels may
    differ; KDError where B, H or W do, the scale is not in (0, 1] or a patch is empty. At most 2^20 cosines a sample
    are held at a time.
    Liu et al., *Structured Knowledge Distillation for Semantic Segmentation*, CVPR 2019, section 3.1 (arXiv
    1903.04197); checked against irfanICMLL/structure_knowledge_distillation.
    """
    if student.ndim != 4 or student.shape[:1] + student.shape[2:] != teacher.shape[:1] + teacher.shape[2:]:
        rule = "must be (B, C, H, W) and differ in nothing but C"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    patch = (int(student.shape[2] * scale), int(student.shape[3] * scale))
    if 0 in patch:
        raise KDError(f"patches of scale {scale} of student {shape(student)} are empty", hint="take a larger scale")
    ours, target = (_nodes(as_float32(tensor), patch, norm_gradient=norm_gradient) for tensor in (student, teacher))
    nodes = ours.shape[2]
    step = max(PAIRS // nodes, 1)
    if step >= nodes:
        return _apart(ours, target, 0, nodes) / (len(ours) * nodes**2)
    # What a part of the rows needs for its gradient is computed again then, not kept.
    parts = [
        checkpoint(_apart, ours, target, start, start + step, use_reentrant=False, preserve_rng_state=False)
        for start in range(0, nodes, step)
    ]
    return torch.stack(parts).sum() / (len(ours) * nodes**2)


def _nodes(maps: Tensor, patch: tuple[int, int], *, norm_gradient: bool) -> Tensor:
    """(B, C, H, W) -> (B, C, N), vectors of unit length."""
    pooled = F.max_pool2d(maps, patch, patch, ceil_mode=True).flatten(2)
    lengths = torch.linalg.vector_norm(pooled, dim=1, keepdim=True)
    return pooled / ((lengths if norm_gradient else lengths.detach()) + 1e-8)


def _apart(student: Tensor, teacher: Tensor, start: int, end: int) -> Tensor:
    """The squared differences of the similarities of nodes ``start`` to ``end`` with all nodes, added up."""
    ours, target = (tensor[..., start:end].mT @ tensor for tensor in (student, teacher))
    return (ours - target).square().sum()
