"""Losses that bring a student's tensor near a teacher's, element by element or position by position."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.losses.closed_form import mean_square, unit
from kd_core.losses.reduction import mean_over, mean_over_samples, unmasked
from kd_core.losses.registry import LOSSES
from kd_core.losses.tensors import hidden, maps_of_one_size, same_shape, valid_mask
from kd_core.ranges import PositiveFloat


@LOSSES("mse")
@mean_over_samples
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference.

    student, teacher of one shape -> scalar, the mean over all elements. KDError where the shapes differ.
    As FitNet's hint in HobbitLong/RepDistiller and megvii-research/mdistiller; see ``hint`` for its authors' scale.
    """
    return F.mse_loss(*same_shape(student, teacher))


@LOSSES("squared_error")
@mean_over_samples
def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference, added up over a sample and averaged over samples.

    student, teacher of one shape (B, ...) -> scalar: ``torch.nn.MSELoss(reduction="sum")`` divided by B. KDError where
    the shapes differ. Head network distillation's loss (Matsubara and Levorato, ICPR 2020, arXiv 2007.15818).
    """
    student, teacher = same_shape(student, teacher, dim=0)
    return F.mse_loss(student, teacher, reduction="sum") / len(student)


@LOSSES("l1")
@mean_over_samples
def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference.

    student, teacher of one shape -> scalar, the mean over all elements. KDError where the shapes differ.
    """
    return F.l1_loss(*same_shape(student, teacher))


@LOSSES("smooth_l1")
@mean_over_samples
def smooth_l1(student: Tensor, teacher: Tensor, *, beta: PositiveFloat = 1.0) -> Tensor:
    """Mean of d^2 / (2 beta) where the difference d is below ``beta``, and of d - beta / 2 above.

    student, teacher of one shape -> scalar, the mean over all elements. KDError where the shapes differ or beta is
    not above 0.
    """
    return F.smooth_l1_loss(*same_shape(student, teacher), beta=beta)


@LOSSES("cosine")
@mean_over(unmasked)
def cosine(student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, dim: int = -1) -> Tensor:
    """One minus the cosine of the angle between the student's vectors and the teacher's.

    student, teacher of one shape, their vectors along ``dim`` (-1: hidden states (B, L, D); 1: feature maps
    (B, D, H, W)); mask in that shape without ``dim``, zero where a vector (of padding) is masked -> scalar in
    [0, 2], the mean over the unmasked vectors, 0 where all are masked. KDError where shapes do not fit.
    Sanh et al., DistilBERT, 2019, section 2 (arXiv 1910.01108); checked against its authors'
    huggingface/transformers-research-projects.
    """
    student, teacher = same_shape(student, teacher, dim=dim)
    counts = None if mask is None else valid_mask(mask, student, dim)
    if counts is not None:
        student, teacher = hidden(counts, student, teacher, dim=dim)
        counts = counts.flatten()
    student, teacher = (tensor.movedim(dim, -1).reshape(-1, tensor.shape[dim]) for tensor in (student, teacher))
    distances = F.cosine_embedding_loss(student, teacher, student.new_ones(len(student)), reduction="none")
    if counts is None:
        return distances.mean()
    return torch.where(counts, distances, 0.0).sum() / counts.sum().clamp(min=1)


@LOSSES("hint")
@mean_over_samples
def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """FitNet's hint: half the squared distance between the student's (regressed) features and the teacher's.

    student, teacher (B, C) or (B, C, ...) -> scalar: half the sum over the channels, the mean over all else, so C / 2
    times ``mse``. KDError where the shapes differ.
    Romero et al., FitNets, ICLR 2015, eq. 3 (arXiv 1412.6550); checked against adri-romsor/FitNets.
    """
    student, teacher = same_shape(student, teacher, dim=1)
    return (student - teacher).square().sum(1).mean() / 2


@LOSSES("attention_transfer")
@mean_over_samples
def attention_transfer(student: Tensor, teacher: Tensor, *, p: PositiveFloat = 2.0) -> Tensor:
    """Mean squared difference of L2-normalised attention maps.

    student (B, Cs, H, W), teacher (B, Ct, H, W) -> scalar, the mean over B and H x W. Channels may differ; the larger
    maps are average-pooled to the size of the smaller, as in RepDistiller. KDError where B differs.
    Zagoruyko & Komodakis, ICLR 2017, eq. 2 (arXiv 1612.03928); checked against szagoruyko/attention-transfer and
    HobbitLong/RepDistiller.
    """
    student, teacher = maps_of_one_size(student, teacher)
    return F.mse_loss(attention(student, p), attention(teacher, p))


def attention(features: Tensor, p: float) -> Tensor:
    """(B, C, H, W) -> (B, H x W), each row of unit length: where a model looks, all channels taken together."""
    powers = mean_square(features) if p == 2 else features.abs().pow(p).mean(1)
    return unit(powers.flatten(1))
