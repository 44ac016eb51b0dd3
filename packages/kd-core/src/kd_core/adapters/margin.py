"""What the overhaul of feature distillation makes of a teacher's features before their activation.

Heo et al., *A Comprehensive Overhaul of Feature Distillation*, ICCV 2019 (arXiv 1904.01866); checked against
clovaai/overhaul-distillation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, feature_map, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

RARE = 1e-3
"""Channels that are negative with less probability than this get three standard deviations as their margin."""


def margins(weight: Tensor, bias: Tensor) -> Tensor:
    """The expected negative response of each channel, (C,), from a batch norm's weight and bias, (C,).

    What the batch norm gives is taken as normally distributed with that mean and standard deviation.
    """
    deviation = weight.abs().clamp(min=torch.finfo(weight.dtype).tiny)
    ratio = bias / deviation
    negative = torch.special.ndtr(-ratio)
    density = (-ratio.square() / 2).exp() / math.sqrt(2 * math.pi)
    expected = bias - deviation * density / negative.clamp(min=RARE)
    return torch.where(negative > RARE, expected, -3 * deviation)


class MarginReLU(nn.Module):
    """The larger of features (B, C, H, W) and their channels' margins; of another ``size``, they are pooled first."""

    def __init__(self, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.size is not None:
            features = F.adaptive_avg_pool2d(features, self.size)
        return torch.maximum(features, margins(weight, bias).to(features.dtype)[:, None, None])


@ADAPTERS("margin_relu")
def margin_relu(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """The margin ReLU of a teacher's features before their activation: no value is below the channel's margin.

    Features (B, C, H, W) and the weight and bias (C,) of the batch norm that gave them -> (B, C, H, W), average-pooled
    to the height and width of ``match`` where it is given and they differ. KDError where shapes do not fit.
    """
    if len(inputs) != 3:
        hint = "write `inputs: [teacher.@preactivations, teacher.@norms:weight, teacher.@norms:bias]`"
        raise KDError(
            f"margin_relu takes features, a batch norm's weight and its bias, not {len(inputs)} inputs", hint=hint
        )
    features, weight, bias = tensors("margin_relu", inputs, match, most=3)
    channels = feature_map("margin_relu", features).shape[1]
    if out_features is not None:
        raise KDError("margin_relu keeps the channels", path="out_features")
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise KDError(f"a batch norm's weight {shape(weight)} and bias {shape(bias)} do not fit {shape(features)}")
    if match is None or feature_map("margin_relu", match).shape[2:] == features.shape[2:]:
        return MarginReLU(None)
    return MarginReLU((match.shape[2], match.shape[3]))
