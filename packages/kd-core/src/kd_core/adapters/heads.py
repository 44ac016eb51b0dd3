"""Heads on a model's features: CRD's embedding, SSKD's projection head, SimKD's projector."""

from __future__ import annotations

from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, feature_map, tensors, width_of
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt, checked

EMBEDDING = 128
"""The width of CRD's embeddings unless a config says otherwise."""


class Normalise(nn.Module):
    """(B, D) -> (B, D), rows of length 1."""

    def forward(self, rows: Tensor) -> Tensor:
        return F.normalize(rows)


@ADAPTERS("embedding")
def embedding(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """A linear layer on flattened features, its outputs L2-normalised: what CRD contrasts.

    (B, ...) -> (B, ``out_features``), 128 where not given. Tian et al., CRD, ICLR 2020 (arXiv 1910.10699).
    """
    (source,) = tensors("embedding", inputs, match)
    width = EMBEDDING if out_features is None and match is None else width_of("embedding", match, out_features)
    return nn.Sequential(nn.Flatten(), nn.Linear(flat(source), width), Normalise())


@ADAPTERS("projection_head")
def projection_head(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """Two linear layers with ReLU between on flattened features: what self-supervision compares.

    (B, ...) -> (B, ``out_features``), the width D of the features where not given.
    Xu et al., SSKD, ECCV 2020 (arXiv 2006.07114).
    """
    (source,) = tensors("projection_head", inputs, match)
    width = flat(source)
    out = width if out_features is None and match is None else width_of("projection_head", match, out_features)
    return nn.Sequential(nn.Flatten(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, out))


@checked
class SimKDProjector(nn.Sequential):
    """(B, channels, H, W) -> (B, out_features, H, W): 1x1, 3x3 and 1x1 convolutions, 1 / ``factor`` as wide.

    What a student has ``insert:``ed before the classifier that it borrows from its teacher. Chen et al., SimKD, CVPR
    2022 (arXiv 2203.14001); checked against DefangChen/SimKD. KDError where ``factor`` leaves no width.
    """

    def __init__(self, *, channels: PositiveInt, out_features: PositiveInt, factor: PositiveInt = 2) -> None:
        if factor > out_features:
            raise KDError(f"factor must be at most out_features, {out_features}, not {factor}", path="factor")
        layers: list[nn.Module] = []
        for out, kernel in ((out_features // factor, 1), (out_features // factor, 3), (out_features, 1)):
            convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        super().__init__(*layers)


@ADAPTERS("simkd_projector")
def simkd_projector(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, factor: PositiveInt = 2
) -> nn.Module:
    """SimKD's bottleneck from a student's map to a teacher's: 1x1, 3x3 and 1x1 convolutions with batch norm and ReLU.

    (B, C, H, W) -> (B, ``out_features`` or the channels of ``match``, H, W); where ``match`` is smaller, H and W become
    its by average pooling, and where it is larger, it is ``match`` that is to be pooled (``pool``). The bottleneck has
    1 / ``factor`` of the output's channels. KDError where the input is no map.
    """
    (source,) = tensors("simkd_projector", inputs, match)
    channels, width = feature_map("simkd_projector", source).shape[1], width_of("simkd_projector", match, out_features)
    return nn.Sequential(
        *pooling("simkd_projector", source, match), SimKDProjector(channels=channels, out_features=width, factor=factor)
    )


class Pool(nn.Module):
    """(B, C, ...) -> (B, C), the mean over all positions."""

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(2).mean(2) if features.ndim > 2 else features


@ADAPTERS("pool")
def pool(inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None) -> nn.Module:
    """The means of feature maps over their positions, as a classifier reads them, or over regions of them.

    (B, C, H, W) -> (B, C); (B, C) stays. With ``match``, a map, -> (B, C, h, w): average pooling to its height and
    width, none where these are not smaller. KDError where the input has no channels, or a width is asked for.
    """
    (source,) = tensors("pool", inputs, match)
    if source.ndim < 2:
        raise KDError(f"pool takes features (B, C, ...), not {tuple(source.shape)}")
    if out_features is not None:
        raise KDError("pool keeps the channels: it takes no out_features")
    return Pool() if match is None else nn.Sequential(*pooling("pool", feature_map("pool", source), match))


def pooling(name: str, source: Tensor, match: Tensor | None) -> list[nn.Module]:
    """Average pooling to the height and width of ``match`` where they are smaller; none where they are not.

    KDError of the adapter ``name`` where one is larger and the other smaller.
    """
    if match is None:
        return []
    (height, width), (high, wide) = source.shape[2:], feature_map(name, match).shape[2:]
    if high >= height and wide >= width:
        return []
    if high > height or wide > width:
        raise KDError(
            f"{name} cannot bring {height}x{width} to {high}x{wide}",
            hint="resize first, with `module: !call:torch.nn.AdaptiveAvgPool2d {output_size: [H, W]}`",
        )
    return [nn.AdaptiveAvgPool2d((high, wide))]


def flat(source: Tensor) -> int:
    """The number of features of a sample."""
    if source.ndim < 2:
        raise KDError(f"features are (B, ...), not {tuple(source.shape)}")
    return prod(source.shape[1:])
