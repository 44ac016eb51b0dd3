"""Losses that a model computes by itself, as terms of a stage."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses.reduction import mean_over, refused_in_parts, unmasked
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, shape


def unknown_mean(
    samples: int,
    value: Tensor | list[Tensor],
    mask: Any = None,
    *,
    mean_over: Literal["samples"] | None = None,
) -> KDError | None:
    """What to say of a value of a whole batch, of which nothing tells what it is a mean over; None for others."""
    values = value if isinstance(value, (list, tuple)) else [value]
    unknown = [item for item in values if not item.ndim or len(item) != samples]
    if mask is not None or mean_over is not None or not unknown:
        return None
    message = f"nothing says what the value {shape(unknown[0])} is a mean over: parts of a batch need that to add up"
    hint = "`mean_over: samples`, or `mask: batch.NAME` for a mean over what a mask leaves; or a value for each sample"
    return KDError(message, hint=hint)


@LOSSES("identity")
@refused_in_parts(unknown_mean)
@mean_over(unmasked)
def identity(value: Tensor, mask: Tensor | None = None, *, mean_over: Literal["samples"] | None = None) -> Tensor:
    """The mean of a tensor: a loss that a model has computed by itself, or one that an adapter gives.

    value of any shape, a field of a model's output in training mode, say; mask, zero for what does not count, of the
    shape of value, or for a single number of any shape: what the model took the mean over -> scalar. torchvision's
    detectors give a mapping of such losses: ``{loss: identity, value: student.output/loss_classifier}``. With
    micro-batches or several processes a value that has no row for each sample needs ``mask`` or ``mean_over: samples``.
    KDError where the shapes do not fit.
    """
    value = as_float32(value)
    if mask is None or not value.ndim:
        return value.mean()
    if mask.shape != value.shape:
        raise KDError(f"mask {shape(mask)} does not have the shape of value {shape(value)}", path="mask")
    counts = mask != 0
    return torch.where(counts, value, 0.0).sum() / counts.sum().clamp(min=1)
