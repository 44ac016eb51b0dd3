"""Partial L2: features before their activation, compared only where the activation would show a difference.

Heo et al., *A Comprehensive Overhaul of Feature Distillation*, ICCV 2019 (arXiv 1904.01866); checked against
clovaai/overhaul-distillation and megvii-research/mdistiller.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import layer_pairs, same_shape
from kd_core.ranges import Fraction


@LOSSES("partial_l2")
@mean_over_samples
def partial_l2(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor], *, decay: Fraction = 0.5) -> Tensor:
    """Squared difference, but for neurons that neither model activates and that the student puts below the teacher.

    student, teacher: values before an activation (B, ...), of one shape where they are compared, or lists of as many;
    those of the teacher have passed the adapter ``margin_relu`` -> scalar: (s - t)^2 where t is above 0 or s above t;
    the sum over a sample's neurons, the mean over B. Of a list the last counts once, each before it ``decay`` times as
    much as the next. KDError where shapes or numbers of layers differ.
    """
    layers = [_layer(*pair) for pair in layer_pairs(student, teacher)]
    total = layers[0]
    for layer in layers[1:]:
        total = total * decay + layer
    return total


def _layer(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher)
    difference = student - teacher
    return torch.where((difference > 0) | (teacher > 0), difference, 0.0).square().sum() / len(student)
