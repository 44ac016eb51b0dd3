"""Feature maps averaged over a grid of cells, as ``cache: {pool: N}`` keeps them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.taps.nested import mapped
from kd_core.taps.wrappers import Capture


def pooled(capture: Capture, grid: int | None, name: str) -> Capture:
    """What the model ``name`` gave, with maps (B, C, H, W) of real numbers averaged to (B, C, grid, grid).

    All else stays, and so do parameters; nothing changes without a ``grid``. KDError where a map is smaller than that.
    """
    if grid is None:
        return capture

    def averaged(value: Tensor) -> Tensor:
        if value.ndim != 4 or not value.is_floating_point():
            return value
        if min(value.shape[2:]) < grid:
            message = f"a map {tuple(value.shape)} is smaller than {grid} x {grid} cells"
            hint = f"`models.{name}.cache.pool: {min(value.shape[2:])}` or less, or leave `pool` out"
            raise KDError(message, hint=hint)
        return F.adaptive_avg_pool2d(value, grid).contiguous()

    at = {tap: value if tap.is_parameter else mapped(averaged, value) for tap, value in capture.at.items()}
    return Capture(mapped(averaged, capture.output), at)
