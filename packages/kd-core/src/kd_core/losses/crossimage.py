"""Cross-image relations: how similar each pixel of a batch is to the pixels of all its images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kd_core.losses.reduction import over_batch
from kd_core.losses.regions import same_places
from kd_core.losses.registry import LOSSES
from kd_core.ranges import PositiveFloat

POOL, POOL_FROM = 4, 256
"""As in the authors' code: feature maps of at least 256 x 256 are averaged over 4 x 4 places first."""
BLOCK = 2**21
"""The most similarities held at a time, 8 MiB in float32; in the passes about ten such tensors."""


@LOSSES("cirkd_minibatch")
@over_batch
def cirkd_minibatch(student: Tensor, teacher: Tensor, *, temperature: PositiveFloat = 0.1) -> Tensor:
    """CIRKD's pixel-to-pixel loss: KL divergence of how similar a pixel is to those of each image of the batch.

    student (B, Cs, H, W), teacher (B, Ct, H, W) features -> scalar: KL(teacher || student) of the softmax, over the
    pixels of one image, of cosine similarities divided by ``temperature``; the mean over the B x H x W pixels and the B
    images each is compared with, its own among them. Maps of at least 256 x 256 are averaged over 4 x 4 places first.
    Similarities are computed in blocks of at most 2**21 and again in the backward pass: none are kept. Not multiplied
    by the squared temperature. KDError where shapes differ in more than C, or the temperature is not above 0.
    Yang et al., CIRKD, CVPR 2022 (arXiv 2204.06986); checked against winycg/CIRKD.
    """
    student, teacher = (_pixels(tensor) for tensor in same_places(student, teacher))
    rows, keys = (student.flatten(0, 1), teacher.flatten(0, 1)), (student, teacher)
    return similarity_kl(rows, keys, temperature=temperature).mean()


def _pixels(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H x W, C), each pixel's vector of unit length."""
    if min(features.shape[2:]) >= POOL_FROM:
        features = F.avg_pool2d(features, POOL, ceil_mode=True)
    return F.normalize(features, dim=1).flatten(2).mT


def similarity_kl(rows: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], *, temperature: float) -> Tensor:
    """KL divergence, student's from teacher's, of the softmax of rows' inner products with the keys of a group.

    Of student and teacher: rows (N, Cs), (N, Ct) and keys (G, M, Cs), (G, M, Ct) -> (N,), the mean over the G groups.
    At most BLOCK similarities, or those of one row, are held at a time; the backward pass computes them again.
    """
    groups, size, _ = keys[0].shape
    blocks = (row.split(max(1, BLOCK // (groups * size))) for row in rows)
    return torch.cat(
        [
            checkpoint(_divergence, *block, *keys, temperature, use_reentrant=False, preserve_rng_state=False)
            for block in zip(*blocks, strict=True)
        ]
    )


def _divergence(
    student: Tensor, teacher: Tensor, student_keys: Tensor, teacher_keys: Tensor, temperature: float
) -> Tensor:
    log_student = (student @ student_keys.mT / temperature).log_softmax(-1)
    log_teacher = (teacher @ teacher_keys.mT / temperature).log_softmax(-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean(0)
