"""Factor transfer's adapters: a paraphraser of the teacher's features, a translator of the student's.

Kim, Park & Kwak, *Paraphrasing Complex Network: Network Compression via Factor Transfer*, NeurIPS 2018
(arXiv 1802.04977); checked against Jangho-Kim/Factor-Transfer-pytorch.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, feature_map, tensors, width_of
from kd_core.errors import KDError
from kd_core.ranges import PositiveFloat, PositiveInt


class Paraphraser(nn.Module):
    """A convolutional autoencoder: (B, C, H, W) -> ``factor`` (B, F, H, W) and ``reconstruction`` (B, C, H, W)."""

    def __init__(self, channels: int, factors: int, *, norm: bool) -> None:
        super().__init__()
        self.encoder = convolutions(nn.Conv2d, [channels, channels, factors, factors], norm=norm)
        self.decoder = convolutions(nn.ConvTranspose2d, [factors, factors, channels, channels], norm=norm)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        factor = self.encoder(features)
        return {"factor": factor, "reconstruction": self.decoder(factor)}


@ADAPTERS("paraphraser")
def paraphraser(
    inputs: list[Tensor],
    match: Tensor | None,
    out_features: PositiveInt | None,
    *,
    rate: PositiveFloat = 0.5,
    norm: bool = False,
) -> nn.Module:
    """A convolutional autoencoder of a map: fields ``factor`` and ``reconstruction``.

    (B, C, H, W) -> {factor: (B, F, H, W), reconstruction: (B, C, H, W)}. F is ``out_features``, the channels of
    ``match``, or ``rate`` x C, the paper's k. Three 3x3 convolutions each way, each with leaky ReLU of slope
    0.1; ``norm`` puts batch norm before that. KDError where the input is not a feature map or no factor is left.
    """
    (source,) = tensors("paraphraser", inputs, match)
    channels = feature_map("paraphraser", source).shape[1]
    factors = (
        round(rate * channels)
        if out_features is None and match is None
        else width_of("paraphraser", match, out_features)
    )
    if factors < 1:
        raise KDError(f"rate {rate} of {channels} channels leaves no factor")
    return Paraphraser(channels, factors, norm=norm)


@ADAPTERS("translator")
def translator(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, norm: bool = False
) -> nn.Module:
    """Three 3x3 convolutions from a student's map to the teacher's factors, the layers of a paraphraser's encoder.

    (B, C, H, W) -> (B, F, H, W): F is ``out_features`` or the channels of ``match``, the factors. KDError
    where the input is not a feature map or F is not known.
    """
    (source,) = tensors("translator", inputs, match)
    channels, factors = feature_map("translator", source).shape[1], width_of("translator", match, out_features)
    return convolutions(nn.Conv2d, [channels, channels, factors, factors], norm=norm)


def convolutions(kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], widths: list[int], *, norm: bool) -> nn.Sequential:
    """3x3 convolutions through ``widths`` that keep H and W, each with leaky ReLU."""
    layers = nn.Sequential()
    for in_channels, out_channels in pairwise(widths):
        layers.append(kind(in_channels, out_channels, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(out_channels))
        layers.append(nn.LeakyReLU(0.1))
    return layers
