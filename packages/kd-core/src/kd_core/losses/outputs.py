"""Losses that a model computes by itself, as terms of a stage."""

from __future__ import annotations

from torch import Tensor

from kd_core.losses.reduction import mean_over_samples
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32


@LOSSES("identity")
@mean_over_samples
def identity(value: Tensor) -> Tensor:
    """The mean of a tensor: a loss that a model has computed by itself, or one that an adapter gives.

    value of any shape, a field of a model's output in training mode, say -> scalar. torchvision's detectors give a
    mapping of such losses: ``{loss: identity, value: student.output/loss_classifier}``.
    """
    return as_float32(value).mean()
