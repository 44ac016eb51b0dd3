"""VkD's adapters: a projection that keeps distances, and features of mean 0 and variance 1.

Miles, Elezi & Deng, *VkD: Improving Knowledge Distillation using Orthogonal Projections*, CVPR 2024 (arXiv 2403.06213);
checked against roymiles/vkd.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

from kd_core.adapters.registry import ADAPTERS, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import PositiveFloat, PositiveInt


class OrthogonalProjector(nn.Module):
    """(..., D) -> (..., out): a linear map without bias, whose rows or columns, the fewer ones, stay orthonormal."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # its start is a QR decomposition, which the meta device leaves out without a word
            self.linear = orthogonal(nn.Linear(features, out, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        device = features.device.type
        autocast = torch.amp.is_autocast_available(device)  # not on the meta device, where a check is
        with torch.autocast(device, enabled=False) if autocast else nullcontext():  # half precision is not orthogonal
            weight = self.linear.weight  # computed anew at each access
            assert isinstance(weight, Tensor)
            return F.linear(features.to(weight.dtype), weight)


class Standardise(nn.Module):
    """(..., D) -> (..., D): each vector with mean 0 and variance 1, times ``scale``."""

    def __init__(self, scale: float, eps: float) -> None:
        super().__init__()
        self.scale, self.eps = scale, eps

    def forward(self, features: Tensor) -> Tensor:
        return F.layer_norm(features, features.shape[-1:], eps=self.eps) * self.scale


@ADAPTERS("orthogonal_projector")
def orthogonal_projector(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """VkD's projector: a linear map without bias that stays orthogonal while it learns.

    (B, D) or (B, L, D) -> the same with the width ``out_features`` or that of ``match``. KDError where the input has
    another number of dimensions, or the width is not known.
    """
    (source,) = tensors("orthogonal_projector", inputs, match)
    if source.ndim not in (2, 3):
        raise KDError(
            f"orthogonal_projector takes (B, D) or (B, L, D), not {shape(source)}",
            hint="pool a map first, for one with `module: !call:torch.nn.AdaptiveAvgPool2d {output_size: 1}`",
        )
    if out_features is None and match is None:
        message = "orthogonal_projector has no output width"
        raise KDError(message, hint="write `match:` (a wire) or `out_features:` (a number)")
    width = out_features if out_features is not None else match.shape[-1]  # type: ignore[union-attr]
    return OrthogonalProjector(source.shape[-1], width)


@ADAPTERS("standardize")
def standardize(
    inputs: list[Tensor],
    match: Tensor | None,
    out_features: PositiveInt | None,
    *,
    scale: PositiveFloat = 1.0,
    eps: PositiveFloat = 1e-5,
) -> nn.Module:
    """Each vector with mean 0 and variance 1, times ``scale``: a layer norm without weights.

    (B, D) or (B, L, D) -> the same shape; ``eps`` is added to the variance. VkD does it to the teacher's features, NORM
    to both models' logits. KDError where the input has another number of dimensions.
    """
    (source,) = tensors("standardize", inputs, match)
    if source.ndim not in (2, 3):
        raise KDError(f"standardize takes (B, D) or (B, L, D), not {shape(source)}")
    return Standardise(scale, eps)
