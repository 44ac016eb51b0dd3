"""Streamlined distillation's direction-wise loss: which way the logits point, against the batch's other samples."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.losses.closed_form import gram, unit
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_shape
from kd_core.ranges import PositiveFloat


@LOSSES("streamlined_direction")
@over_batch
def streamlined_direction(student: Tensor, teacher: Tensor, *, tikhonov: PositiveFloat = 0.1) -> Tensor:
    """Mahalanobis length of how the B x B matrices of cosines between samples differ, the mean over the samples.

    student, teacher (B, C) logits -> scalar: with D the student's cosines divided by C minus the teacher's, and S the
    covariance of D's columns plus ``tikhonov`` on its diagonal, the mean over the rows d of sqrt(d S^-1 d); 0 for one
    sample. A class that is minus infinity in both does not count. KDError where the shapes differ.
    Jeong, Lee & Choi, *Streamlined Knowledge Distillation*, CVPR 2026; checked against HyunJunSik/StreamLined.
    torchdistill leaves out the division by C: its value is that of ``tikhonov`` divided by C squared here.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    both = student.isneginf() & teacher.isneginf()
    cosines = (_cosines(logits.masked_fill(both, 0.0).flatten(1)) for logits in (student, teacher))
    first, second = cosines
    difference = (first - second) / student.shape[1]
    centred = difference - difference.mean(0)
    spread = centred.T @ centred / max(len(centred) - 1, 1)
    spread = spread + tikhonov * torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
    factor, _ = torch.linalg.cholesky_ex(spread)  # the one that does not wait for the device
    whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)
    return torch.linalg.vector_norm(whitened, dim=0).mean()


def _cosines(logits: Tensor) -> Tensor:
    """(B, C) -> (B, B)."""
    return gram(unit(logits))
