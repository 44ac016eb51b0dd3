"""NORM's feature transform: a student's map is expanded to N times the teacher's channels, and contracted again.

Liu et al., *NORM: Knowledge Distillation via N-to-One Representation Matching*, ICLR 2023 (openreview CRNwGauQpb6);
checked against OSVAI/NORM.
"""

from __future__ import annotations

from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, tensors, width_of
from kd_core.ranges import PositiveInt, checked


@checked
class FeatureExpansion(nn.Module):
    """(B, channels, H, W) -> the same shape, by way of ``expand``, (B, ``parts`` x ``teacher_channels``, H, W).

    Two 1x1 convolutions with batch norm, and their input added. What a student has ``insert:``ed after its last
    features; ``many_to_one`` compares what ``expand`` gives with the teacher's features.
    """

    def __init__(self, *, channels: PositiveInt, teacher_channels: PositiveInt, parts: PositiveInt = 8) -> None:
        super().__init__()
        wide = parts * teacher_channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide))
        self.contract = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))
        for layer in (self.expand[0], self.contract[0]):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        contracted: Tensor = self.contract(self.expand(features))
        return contracted + features


@ADAPTERS("feature_expansion")
def feature_expansion(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, parts: PositiveInt = 8
) -> nn.Module:
    """NORM's transform of a student's last map, whose ``expand`` has ``parts`` times the teacher's channels.

    (B, C, H, W) -> the same shape; the teacher's channels are ``out_features`` or those of ``match``. A student has it
    inserted by an edit, and ``many_to_one`` reads its ``expand``. KDError where the input is no map.
    Liu et al., NORM, ICLR 2023; checked against OSVAI/NORM.
    """
    (source,) = tensors("feature_expansion", inputs, match)
    width = width_of("feature_expansion", match, out_features)
    channels = feature_map("feature_expansion", source).shape[1]
    return FeatureExpansion(channels=channels, teacher_channels=width, parts=parts)
