"""Rotations as views of images."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_core.data.batch import Batch
from kd_core.data.views import VIEWS, views_of
from kd_core.errors import KDError
from kd_core.taps.nested import map_tensors

QUARTERS = 4


@VIEWS("rotations")
def rotations(batch: Batch) -> Batch:
    """Each image as it is, then turned to the left by 90, 180 and 270 degrees: B samples become 4B rows.

    KDError where images are not square. What SSKD (Xu et al., ECCV 2020, arXiv 2006.07114) learns from.
    """
    return views_of(
        batch, [map_tensors(lambda images, by=by: turned(images, by), batch.inputs) for by in range(QUARTERS)]
    )


def turned(images: Tensor, quarters: int) -> Tensor:
    """Images (B, C, H, W) turned to the left by so many quarters."""
    if images.shape[-1] != images.shape[-2]:
        raise KDError(f"rotations take square images, not {tuple(images.shape[1:])}", hint="set data.size")
    return torch.rot90(images, quarters, (-2, -1))
