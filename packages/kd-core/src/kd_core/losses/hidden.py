"""Losses on the hidden states of several layers of a text model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.closed_form import unit
from kd_core.losses.reduction import mean_over, mean_over_samples, unmasked
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import as_float32, hidden, layer_pairs, same_shape, shape, valid_mask


@LOSSES("hidden_mse")
@mean_over(unmasked)
def hidden_mse(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor], mask: Tensor | None = None) -> Tensor:
    """TinyBERT's embedding and hidden state losses: the mean squared difference, summed over the layers.

    student, teacher: hidden states (B, L, H) of one shape where they are compared (a ``projector`` makes them so), or
    lists of as many; mask (B, L), zero where a position (of padding) is masked -> scalar, each layer's mean over the
    elements of all unmasked positions, 0 where all are masked. KDError where shapes or the numbers of layers differ.
    Jiao et al., TinyBERT, Findings of EMNLP 2020, eq. 8 and 9 (arXiv 1909.10351); checked against
    huawei-noah/Pretrained-Language-Model, which averages over padding: its value is that without ``mask``.
    """
    losses = [_mean_square(*states, mask) for states in layer_pairs(student, teacher)]
    return sum(losses[1:], start=losses[0])


@LOSSES("patience")
@mean_over_samples
def patience(student: Tensor | list[Tensor], teacher: Tensor | list[Tensor]) -> Tensor:
    """PKD-BERT's patience: the squared distance of L2-normalised [CLS] states, layer by layer.

    student, teacher: hidden states (B, L, H), of which the first position counts, or these alone (B, H), or lists of as
    many; lengths L may differ -> scalar, the mean over layers, B and H, as in the authors' code (the paper adds up).
    KDError where B, H or the numbers of layers differ.
    Sun et al., *Patient Knowledge Distillation*, EMNLP 2019, eq. 7 (arXiv 1908.09355); checked against
    intersun/PKD-for-BERT-Model-Compression.
    """
    losses = [_patience(*states) for states in layer_pairs(student, teacher)]
    return sum(losses[1:], start=losses[0]) / len(losses)


def _mean_square(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    student, teacher = same_shape(student, teacher)
    if mask is None:
        return F.mse_loss(student, teacher)
    counts = valid_mask(mask, student, -1)
    student, teacher = hidden(counts, student, teacher, dim=-1)
    errors = F.mse_loss(student, teacher, reduction="none").mean(-1)
    return torch.where(counts, errors, 0.0).sum() / counts.sum().clamp(min=1)


def _patience(student: Tensor, teacher: Tensor) -> Tensor:
    ours, target = (as_float32(tensor[:, 0] if tensor.ndim == 3 else tensor) for tensor in (student, teacher))
    if ours.ndim != 2 or ours.shape != target.shape:
        rule = "must be states (B, L, H) or (B, H) with the same B and H"
        raise KDError(f"student {shape(student)} and teacher {shape(teacher)} {rule}", path="student")
    return F.mse_loss(unit(ours), unit(target))
