"""Masked generative distillation: a teacher's features, made anew from some of a student's."""

from __future__ import annotations

from torch import Tensor

from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import same_shape


@LOSSES("mgd")
@mean_over_samples
def mgd(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference of generated features from the teacher's: the sum over a sample, the mean over the batch.

    student (B, ...), what an adapter ``generation`` makes, and teacher (B, ...) of one shape -> scalar, C x H x W times
    ``mse``. KDError where the shapes differ.
    Yang et al., MGD, ECCV 2022 (arXiv 2205.01529); checked against yzd-v/MGD, whose alpha is the term's weight.
    """
    student, teacher = same_shape(student, teacher)
    return (student - teacher).square().sum() / len(student)
