"""Class activation maps: what a linear classifier would say of each position of a feature map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, feature_map, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt


class ClassMaps(nn.Module):
    """Feature maps (B, C, H, W) and the rows (K, C) of a linear classifier -> class activation maps (B, K, H, W)."""

    def forward(self, features: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(features, weight.to(features.dtype)[:, :, None, None])


@ADAPTERS("class_maps")
def class_maps(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """Class activation maps: how much each position of a feature map speaks for each class.

    Features (B, C, H, W) and the weight (K, C) of the linear layer that reads their means -> (B, K, H, W). KDError
    where shapes do not fit. Zhou et al., CVPR 2016 (arXiv 1512.04150).
    """
    if len(inputs) != 2:
        hint = "write `inputs: [student.@last_map, student.@classifier:weight]`"
        raise KDError(f"class_maps takes a feature map and a classifier's weight, not {len(inputs)} inputs", hint=hint)
    features, weight = tensors("class_maps", inputs, match, most=2)
    if weight.ndim != 2 or weight.shape[1] != feature_map("class_maps", features).shape[1]:
        raise KDError(f"a classifier's weight {shape(weight)} does not read the channels of {shape(features)}")
    if out_features is not None or match is not None:
        raise KDError("class_maps has as many maps as there are classes: it takes neither match nor out_features")
    return ClassMaps()
