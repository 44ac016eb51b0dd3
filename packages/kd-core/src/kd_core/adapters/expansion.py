"""NORM's feature transform: a student's map is expanded to N times the teacher's channels, and contracted again.

Liu et al., *NORM: Knowledge Distillation via N-to-One Representation Matching*, ICLR 2023 (openreview CRNwGauQpb6);
checked against OSVAI/NORM.
"""

from __future__ import annotations

from torch import Tensor, nn

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
