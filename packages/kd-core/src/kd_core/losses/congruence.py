"""Correlation congruence: the samples of a batch relate to one another in the student as in the teacher.

Peng et al., *Correlation Congruence for Knowledge Distillation*, ICCV 2019 (arXiv 1904.01802), whose authors published
no code. ``cc`` is what they gave to RepDistiller, ``cc_kernel`` the paper's kernels as torchdistill has them.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from kd_core.losses.closed_form import gram
from kd_core.losses.reduction import over_batch
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_rows, same_shape
from kd_core.ranges import PositiveFloat, PositiveInt


@LOSSES("cc")
@over_batch
def cc(student: Tensor, teacher: Tensor) -> Tensor:
    """Inner product of the absolute differences, student from teacher, of each two rows that follow one another.

    student, teacher (B, ...) of one shape, flattened (embeddings, from a ``projector`` each) -> scalar, the mean over
    the B - 1 neighbours; 0 for one sample. It depends on the order of the rows. KDError where the shapes differ.
    Checked against HobbitLong/RepDistiller, which has it from the paper's authors.
    """
    student, teacher = same_rows(*same_shape(student, teacher, dim=1))
    apart = (student - teacher).abs()
    return (apart[:-1] * apart[1:]).sum() / max(len(apart) - 1, 1)


@LOSSES("cc_kernel")
@over_batch
def cc_kernel(
    student: Tensor,
    teacher: Tensor,
    *,
    kernel: Literal["gaussian", "bilinear"] = "gaussian",
    gamma: PositiveFloat = 0.4,
    order: PositiveInt = 2,
) -> Tensor:
    """Frobenius distance of the B x B matrices of a kernel between samples, divided by B squared.

    student (B, ...), teacher (B, ...), flattened -> scalar. ``bilinear``: inner products k; ``gaussian``:
    exp(-2 gamma) times the sum of (2 gamma k)^p / p! for p from 0 to ``order``, the Taylor series of a Gaussian of
    unit vectors. The paper squares the distance. KDError where B differs.
    Checked against yoshitomo-matsubara/torchdistill (CCKDLoss).
    """
    student, teacher = same_rows(student, teacher)
    matrices = (gram(rows) for rows in (student, teacher))
    if kernel == "gaussian":
        matrices = (_gaussian(matrix, gamma, order) for matrix in matrices)
    ours, theirs = matrices
    return torch.linalg.vector_norm(ours - theirs) / len(student) ** 2


def _gaussian(products: Tensor, gamma: float, order: int) -> Tensor:
    """The Taylor series, term by term from the highest (Horner's scheme)."""
    series = torch.ones_like(products)
    for power in range(order, 0, -1):
        series = 1 + 2 * gamma / power * products * series
    return math.exp(-2 * gamma) * series
