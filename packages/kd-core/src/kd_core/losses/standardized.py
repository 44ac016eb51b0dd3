"""The simple recipe's loss: features, standardised over the batch, under a logarithm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_rows, same_shape
from kd_core.ranges import NormOrder, PositiveFloat


@LOSSES("srd")
@over_batch
def srd(student: Tensor, teacher: Tensor, *, exponent: NormOrder = 4.0, eps: PositiveFloat = 1e-4) -> Tensor:
    """Logarithm of the summed powers of the differences, each feature standardised over the batch first.

    student, teacher (B, ...) of one shape, flattened: pooled features, the student's through a ``projector``
    -> scalar: the log of the sum over B and all features of |s - t| to ``exponent``; 0 for one sample. ``eps`` is added
    to each feature's variance. Equal inputs give the log of the smallest positive float, without a gradient (the
    reference minus infinity). KDError where the shapes differ.
    Miles & Mikolajczyk, *Understanding the Role of the Projector in Knowledge Distillation*, AAAI 2024 (arXiv
    2303.11098); checked against roymiles/Simple-Recipe-Distillation (its ImageNet code), which gives it the weight 2.
    """
    student, teacher = same_rows(*same_shape(student, teacher, dim=1))
    if len(student) == 1:
        return (student - teacher).sum() * 0.0
    apart = F.batch_norm(student, None, None, training=True, eps=eps)
    apart = apart - F.batch_norm(teacher, None, None, training=True, eps=eps)
    squares = apart.square().flatten()
    total = squares @ squares if exponent == 4 else apart.abs().pow(exponent).sum()
    return total.clamp(min=torch.finfo(apart.dtype).tiny).log()
