"""Knowledge review's adapters: attention-based fusion of a stage's features with those of all deeper ones.

Chen, Liu, Zhao & Jia, *Distilling Knowledge via Knowledge Review*, CVPR 2021 (arXiv 2104.09044); checked against
dvlab-research/ReviewKD.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, feature_map, tensors, width_of
from kd_core.errors import KDError
from kd_core.ranges import PositiveInt

WIDEST = 512
"""The most channels that are handed from level to level unless a config says otherwise."""


class Fusion(nn.Module):
    """One level of a review: features (B, C, H, W), and what the deeper level handed on -> ``output`` and ``residual``.

    ``residual`` (B, width, H, W) goes to the next shallower level, ``output`` (B, out, H, W) to the loss. Both have the
    height and width ``size`` where it is given.
    """

    def __init__(self, channels: int, width: int, out: int, *, fuse: bool, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.size = size
        self.reduce = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.expand = nn.Sequential(nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out))
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuse else None
        for layer in (self.reduce[0], self.expand[0]):
            nn.init.kaiming_uniform_(layer.weight, a=1)  # type: ignore[arg-type]

    def forward(self, features: Tensor, residual: Tensor | None = None) -> dict[str, Tensor]:
        fused: Tensor = self.reduce(features)
        if self.attention is not None:
            assert residual is not None
            residual = F.interpolate(residual, fused.shape[-2:])
            fused_weight, handed = self.attention(torch.cat([fused, residual], dim=1)).split(1, dim=1)
            fused = fused * fused_weight + residual * handed
        if self.size is not None:
            fused = F.interpolate(fused, self.size)
        return {"output": self.expand(fused), "residual": fused}


@ADAPTERS("fusion")
def fusion(
    inputs: list[Tensor], match: Tensor | None, out_features: PositiveInt | None, *, width: PositiveInt | None = None
) -> nn.Module:
    """A level of knowledge review: fields ``output``, for the loss, and ``residual``, for the next shallower level.

    (B, C, H, W) and, but for the deepest level, the deeper one's ``residual`` (B, M, h, w) -> {output: like ``match``
    or with ``out_features`` channels, residual: (B, M, H, W)}. M is ``width``; else, as in the authors' code, that
    of the residual or C, at most 512. KDError where an input is not a feature map or widths do not fit.
    """
    first, *deeper = (feature_map("fusion", tensor) for tensor in tensors("fusion", inputs, match, most=2))
    handed = deeper[0].shape[1] if deeper else None
    if width is not None and handed not in (None, width):
        raise KDError(f"width is {width}, but the residual has {handed} channels: leave it out", path="width")
    between = width or handed or min(WIDEST, first.shape[1])
    out = width_of("fusion", None if match is None else feature_map("fusion", match), out_features)
    resized = match is not None and match.shape[2:] != first.shape[2:]
    size = (match.shape[2], match.shape[3]) if match is not None and resized else None
    return Fusion(first.shape[1], between, out, fuse=bool(deeper), size=size)


class Review(nn.Module):
    """All levels of a review: feature maps, shallow ones first, and pooled features -> ``maps`` and ``pooled``."""

    def __init__(self, levels: list[Fusion]) -> None:
        super().__init__()
        self.levels = nn.ModuleList(levels)
        """The deepest first: that of the pooled features."""

    def forward(
        self, features: list[Tensor], pooled: Tensor, target: Tensor | None = None
    ) -> dict[str, Tensor | list[Tensor]]:
        """``target`` has told a width when this was built."""
        deepest, *levels = self.levels
        outputs = deepest(pooled.flatten(1)[:, :, None, None])
        vector, maps = outputs["output"].flatten(1), list[Tensor]()
        for level, tensor in zip(levels, reversed(features), strict=True):
            outputs = level(tensor, outputs["residual"])
            maps.insert(0, outputs["output"])
        return {"maps": maps, "pooled": vector}


@ADAPTERS("review")
def review(
    inputs: list[list[Tensor] | Tensor],
    match: list[Tensor] | None,
    out_features: PositiveInt | None,
    *,
    width: PositiveInt | None = None,
) -> nn.Module:
    """Knowledge review of a whole model, a ``fusion`` a level: fields ``maps``, a list like ``match``, and ``pooled``.

    Inputs are a list of feature maps (B, C, H, W), shallow ones first, and pooled features (B, D), where the review
    begins: ``inputs: [student.@features, student.@penultimate]``; ``match`` is a list of as many feature maps of the
    teacher -> {maps: list of (B, C', H', W'), pooled: (B, D')}. D' is ``out_features``, else the width of a third
    input, which is looked at for that alone, else D. ``width`` channels are handed from level to level; where not given
    D, at most 512. KDError where numbers of feature maps differ or an input is something else.
    """
    if isinstance(inputs, Mapping) or not 2 <= len(inputs) <= 3:
        hint = "write `inputs: [student.@features, student.@penultimate]`"
        raise KDError("review takes two or three inputs in order", hint=hint, path="inputs")
    features, pooled, *target = inputs
    if isinstance(features, Tensor) or match is None or isinstance(match, Tensor):
        hint = "write `match: teacher.@features`"
        raise KDError("review takes a list of feature maps, and another to match", hint=hint)
    if len(features) != len(match):
        counts = f"{len(features)} feature maps, and match {len(match)}"
        raise KDError(f"review has {counts}: they are compared one to one", path="match")
    vectors = [tensor for tensor in (pooled, *target) if isinstance(tensor, Tensor) and tensor.ndim >= 2]
    if len(vectors) < len(inputs) - 1:
        raise KDError("review takes pooled features (B, D) after its list of feature maps", path="inputs")
    channels, *told = (tensor.flatten(1).shape[1] for tensor in vectors)
    between = width or min(WIDEST, channels)
    levels = [Fusion(channels, between, out_features or (told or [channels])[0], fuse=False, size=None)]
    for tensor, like in zip(reversed(features), reversed(match), strict=True):
        tensor, like = feature_map("review", tensor), feature_map("review", like)
        size = (like.shape[2], like.shape[3]) if like.shape[2:] != tensor.shape[2:] else None
        levels.append(Fusion(tensor.shape[1], between, like.shape[1], fuse=True, size=size))
    return Review(levels)
