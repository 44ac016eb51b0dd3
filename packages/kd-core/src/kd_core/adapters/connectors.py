"""What brings a student's features to a teacher's channels for activation boundaries and channel correlations."""

from __future__ import annotations

from torch import Tensor, nn

from kd_core.adapters.projector import projector
from kd_core.adapters.registry import ADAPTERS, feature_map, tensors, width_of
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt


@ADAPTERS("connector")
def connector(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """Nothing where features have the shape of ``match``, else a linear map onto it, without bias, and batch norm.

    (B, D) and (B, L, D) get a linear layer, (B, C, H, W) a convolution; sizes and kernels are those of ``projector``.
    Its weights are normal with variance 2 / (kernel area x channels out). KDError where ``match`` is not given or
    ``projector`` cannot reach it. Heo et al., AAAI 2019 (arXiv 1811.03233); checked against bhheo/AB_distillation.
    """
    (source,) = tensors("connector", inputs, match)
    if match is None or out_features is not None:
        raise KDError("connector makes features like those of a teacher", hint="write `match: WIRE`, no out_features")
    if source.shape[1:] == match.shape[1:]:
        return nn.Identity()
    layers = projector(inputs, match, None, bias=False, norm=True)
    nn.init.kaiming_normal_(layers[0].weight, mode="fan_out", nonlinearity="relu")  # type: ignore[index]
    return layers


@ADAPTERS("channel_embedding")
def channel_embedding(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, kernel: PositiveInt = 1
) -> nn.Module:
    """A convolution without bias and batch norm onto the channels of ``match``; height and width stay.

    (B, C, H, W) -> (B, ``out_features`` or the channels of ``match``, H, W). ``kernel`` is odd: 1 in the authors' code
    for CIFAR-100, 3 in that for ImageNet. KDError where the input is not a feature map or the kernel is even.
    Liu et al., ICKD, ICCV 2021; checked against ADLab-AutoDrive/ICKD.
    """
    (source,) = tensors("channel_embedding", inputs, match)
    channels, width = (
        feature_map("channel_embedding", source).shape[1],
        width_of("channel_embedding", match, out_features),
    )
    if kernel % 2 == 0:
        raise KDError(f"kernel is {kernel}, but must be odd to keep height and width", path="kernel")
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width))
