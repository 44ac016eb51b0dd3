"""The true boxes of a batch as tensors, where a detector's own scaling and padding puts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS
from kd_core.errors import KDError
from kd_core.losses.tensors import constant

NO_BOX = (0.0, 0.0, -1.0, -1.0)
"""The row of an image that has fewer boxes than another."""
NO_LABEL = (0,)
"""What stands beside that row."""


class BoxesOnMaps(nn.Module):
    """(images, targets) as torchvision's transform gives them -> the fields of :func:`boxes_on_maps`."""

    def forward(self, transformed: Any) -> dict[str, Tensor]:
        images, targets = _parts(transformed)
        height, width = images.shape[-2:]
        most = max(len(target["boxes"]) for target in targets)
        boxes = torch.stack([_filled(target["boxes"].float(), most, NO_BOX) for target in targets])
        labels = torch.stack([_filled(target["labels"], most, NO_LABEL) for target in targets])
        return {
            "boxes": boxes,
            "fractions": boxes / constant((width, height, width, height), boxes),
            "labels": labels,
        }


def _parts(transformed: Any) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """The padded images (B, 3, H, W) and the targets; KDError where something else was given."""
    images, targets = transformed if isinstance(transformed, (tuple, list)) and len(transformed) == 2 else (None, None)
    images = getattr(images, "tensors", images)
    if not isinstance(images, Tensor) or not isinstance(targets, (list, type(None))):
        raise KDError(
            "boxes_on_maps takes a detector's padded images and its targets",
            hint="write `inputs: student.transform`, for a detector of torchvision",
        )
    if not targets:
        raise KDError(
            "boxes_on_maps is given no targets: a detector has them in training mode only",
            hint="take the student's transform: a frozen teacher runs in evaluation mode",
        )
    return images, targets


def _filled(rows: Tensor, count: int, filling: Sequence[float]) -> Tensor:
    """``rows`` (n, ...) with more behind them, so that there are ``count``."""
    more = constant(filling, rows).expand(count - len(rows), *rows.shape[1:])
    return torch.cat((rows, more))


@ADAPTERS("boxes_on_maps")
def boxes_on_maps(inputs: list[Any], match: Tensor | None, out_features: int | None) -> nn.Module:
    """The true boxes of a batch, from what scales and pads the images in a detector of torchvision.

    The input is the wire ``student.transform``. Fields, M the most boxes of an image: ``boxes`` float32 (B, M, 4), x1
    y1 x2 y2 in pixels of the padded batch, as a detector's anchors have them; ``fractions`` the same divided by its
    width and height, as a loss on maps takes them; ``labels`` int64 (B, M). An image with fewer boxes has rows
    (0, 0, -1, -1) with the label 0. KDError where the input is something else, or a width is asked for.
    """
    if isinstance(inputs, list) and len(inputs) == 1 and match is None and out_features is None:
        return BoxesOnMaps()
    raise KDError("boxes_on_maps takes one input, and no width", hint="write `inputs: student.transform`")
