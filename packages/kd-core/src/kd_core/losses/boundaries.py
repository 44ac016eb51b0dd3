"""Activation boundaries: whether each of a teacher's neurons is active, whatever its value.

Heo, Lee, Yun & Choi, *Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons*, AAAI 2019
(arXiv 1811.03233); checked against bhheo/AB_distillation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import layer_pairs, same_shape
from kd_core.ranges import Fraction, PositiveFloat


@LOSSES("activation_boundary")
@mean_over_samples
def activation_boundary(
    student: Tensor | list[Tensor],
    teacher: Tensor | list[Tensor],
    *,
    margin: PositiveFloat = 1.0,
    decay: Fraction = 0.5,
) -> Tensor:
    """How far the student's neurons are from being active, by ``margin``, exactly where the teacher's are.

    student, teacher: values before an activation (B, ...), of one shape where they are compared (an adapter
    ``connector`` makes them so), or lists of as many -> scalar: the square of ``margin`` - s where the teacher is above
    0, of ``margin`` + s elsewhere, 0 where these are negative; the sum over a sample's neurons, the mean over B. Of a
    list the last counts once, each before it ``decay`` times as much as the next. The teacher gets no gradient: only
    signs count. KDError where shapes or numbers of layers differ.
    """
    layers = [_layer(*pair, margin) for pair in layer_pairs(student, teacher)]
    total = layers[0]
    for layer in layers[1:]:
        total = total * decay + layer
    return total


def _layer(student: Tensor, teacher: Tensor, margin: float) -> Tensor:
    student, teacher = same_shape(student, teacher)
    side = torch.where(teacher > 0, -1.0, 1.0).to(student.dtype)
    missing = (student * side + margin).relu().flatten()
    return missing @ missing / len(student)
