"""Tokens of a vision transformer as a feature map, of the size of another one."""

from __future__ import annotations

from math import isqrt

from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.adapters.registry import ADAPTERS, shape, tensors
from kd_core.errors import KDError
from kd_core.ranges import NonNegativeInt

MOST_PREFIX = 16
"""Tokens before those of the patches at most: of the class, of distillation, and registers."""


class TokenMap(nn.Module):
    """Tokens (B, L, D), or a map (B, D, H, W), as a map (B, D, *size), resized by interpolation where it must be."""

    def __init__(self, grid: tuple[int, int] | None, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.grid, self.size = grid, size

    def forward(self, tokens: Tensor) -> Tensor:
        if self.grid is not None:
            height, width = self.grid
            patches = tokens[:, tokens.shape[1] - height * width :]
            tokens = patches.transpose(1, 2).reshape(len(tokens), -1, height, width)
        if self.size is None or tokens.shape[2:] == self.size:
            return tokens
        return F.interpolate(tokens, self.size, mode="bilinear", antialias=True)


@ADAPTERS("token_map")
def token_map(
    inputs: list[Tensor], match: Tensor | None, out_features: int | None, *, prefix: NonNegativeInt | None = None
) -> nn.Module:
    """The patches of a vision transformer as a feature map: (B, L, D) -> (B, D, H, W).

    The first ``prefix`` tokens are no patches; where it is not given, as few are left out as make the others a square.
    With ``match`` (B, C, H, W) the map is resized to its height and width (bilinear, antialiased), whatever the strides
    of the two models are. A feature map (B, D, H, W) is only resized. It has no parameters. KDError where tokens are no
    grid.
    """
    (source,) = tensors("token_map", inputs, match)
    if out_features is not None:
        raise KDError("token_map keeps the width of the tokens: it takes no out_features", path="out_features")
    if source.ndim not in (3, 4):
        raise KDError(f"token_map takes tokens (B, L, D) or maps (B, D, H, W), not {shape(source)}")
    if match is not None and match.ndim != 4:
        raise KDError(f"match must be a map (B, C, H, W), not {shape(match)}")
    size = None if match is None else (match.shape[2], match.shape[3])
    return TokenMap(None if source.ndim == 4 else grid_of(source.shape[1], prefix), size)


def grid_of(length: int, prefix: int | None) -> tuple[int, int]:
    """The square grid of the last of ``length`` tokens; KDError where they are none."""
    for before in range(MOST_PREFIX + 1) if prefix is None else [prefix]:
        side = isqrt(max(length - before, 0))
        if side and side * side == length - before:
            return side, side
    hint = "`prefix` is the number of tokens before those of the patches"
    raise KDError(f"{length} tokens are no square grid of patches", hint=hint)
