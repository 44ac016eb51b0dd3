"""What methods on logits have between a model and their loss: a learned number, regions of a map, weak logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, feature_map, shape, tensors, width_of
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

SCALES = (1, 2, 4)
"""SDD's: the whole image, its quarters and its sixteenths."""


class LearnedNumber(nn.Module):
    """A parameter (1,), whatever the input."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.number = nn.Parameter(torch.full((1,), start))

    def forward(self, features: Any) -> Tensor:
        return self.number


@ADAPTERS("learned_number")
def learned_number(
    inputs: list[Any], match: Tensor | None, out_features: PositiveInt | None, *, start: float = 1.0
) -> nn.Module:
    """A number (1,) that is learned, from ``start`` on: the score of CTKD's temperature. Its input is not read.

    Li et al., AAAI 2023 (arXiv 2211.16231); checked against zhengli97/CTKD.
    """
    return LearnedNumber(start)


class HardLabels(nn.Module):
    """(B, C) or (B, C, ...) -> (B) or (B, ...): the likeliest class, the first of equal ones."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.argmax(1)


@ADAPTERS("hard_labels")
def hard_labels(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """The classes that a model says: its logits (B, C, ...) as labels (B, ...), for a loss that takes labels.

    With the teacher's and ``cross_entropy`` it is hard-label distillation. Touvron et al., DeiT, ICML 2021, eq. 3
    (arXiv 2012.12877).
    """
    (logits,) = tensors("hard_labels", inputs, match)
    if match is not None or out_features is not None:
        raise KDError("hard_labels has one class for each sample: it takes neither match nor out_features")
    if logits.ndim < 2:
        raise KDError(f"hard_labels takes logits (B, C, ...), not {shape(logits)}")
    return HardLabels()


class RegionPool(nn.Module):
    """(B, C, H, W) -> (B, R, C): the means over the regions of each scale, those of the largest pooled further."""

    def __init__(self, scales: list[int]) -> None:
        super().__init__()
        self.scales = scales

    def forward(self, features: Tensor) -> Tensor:
        finest = F.adaptive_avg_pool2d(features, max(self.scales))
        pooled = [F.adaptive_avg_pool2d(finest, scale).flatten(2) for scale in self.scales]
        return torch.cat(pooled, dim=2).transpose(1, 2)


@ADAPTERS("region_pool")
def region_pool(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, scales: list[int] | None = None
) -> nn.Module:
    """The mean features of an image and of its parts: what SDD's classifier makes logits of.

    (B, C, H, W) -> (B, R, C): for each of the ``scales`` (1, 2 and 4 where not given) its square of regions, row by
    row. The coarser ones are means over the finest. KDError where the input is no map or has another number of channels
    than ``match``, the vector that the classifier reads, or a scale is not above 0.
    Wei et al., SDD, CVPR 2024 (arXiv 2403.13512); checked against shicaiwei123/SDD-CVPR2024.
    """
    (source,) = tensors("region_pool", inputs, match)
    channels = feature_map("region_pool", source).shape[1]
    if match is not None and match.shape[-1] != channels:
        hint = "give the map that the model averages for its classifier, `student_map: student.conv2` for one"
        raise KDError(f"the map has {channels} channels, and the classifier reads {match.shape[-1]}", hint=hint)
    chosen = list(SCALES if scales is None else scales)
    if not chosen or min(chosen) < 1:
        raise KDError(f"scales must be whole numbers above 0, not {chosen}", path="scales")
    return RegionPool(chosen)


@ADAPTERS("pooled_classifier")
def pooled_classifier(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """A linear layer on features averaged over their places: USKD's weak logits.

    (B, C, H, W), (B, L, D) or (B, D) -> (B, ``out_features``), the width of ``match`` where not given. KDError where
    the input has another number of dimensions.
    Yang et al., ICCV 2023 (arXiv 2303.13005); checked against yzd-v/cls_KD.
    """
    (source,) = tensors("pooled_classifier", inputs, match)
    if not 2 <= source.ndim <= 4:
        raise KDError(f"pooled_classifier takes (B, D), (B, L, D) or (B, C, H, W), not {shape(source)}")
    width = width_of("pooled_classifier", match, out_features)
    return nn.Sequential(Pool(), nn.Linear(source.shape[2 if source.ndim == 3 else 1], width))


class Pool(nn.Module):
    """(B, C, H, W) -> (B, C), (B, L, D) -> (B, D), the means over the places; (B, D) stays."""

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim == 2:
            return features
        return features.mean(1) if features.ndim == 3 else features.mean((2, 3))
