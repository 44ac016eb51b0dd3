"""Images without labels, added to the training images: what a student can learn from its teacher alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_vision.data.folders import files_pool, image_files
from kd_vision.data.loading import CentreCrop, as_tensor
from kd_vision.data.pool import UNLABELLED, LabelledSubset


def with_unlabelled(parts: Parts[LabelledSubset], folder: Path) -> Parts[LabelledSubset]:
    """All images in ``folder`` and below among those that train."""
    assert parts.train is not None
    train = joined(parts.train, folder)
    origin = parts.origins["train"]
    more = replace(origin, added=len(train) - len(parts.train))
    return replace(parts, train=train, origins={**parts.origins, "train": more})


def joined(train: LabelledSubset, folder: Path) -> LabelledSubset:
    """``train`` with all images in ``folder`` and below, numbered on from the data set's last row.

    Beside images in memory they are resized and cropped to the same shape. KDError where there is none.
    """
    paths = image_files(folder)
    if not paths:
        raise KDError(f"there are no images in {folder}", path="data.unlabelled")
    extra = files_pool(folder, paths, [UNLABELLED] * len(paths))
    images: Any
    if isinstance(train.images, Tensor):
        images = torch.cat([train.images, in_memory(extra, train.images.shape[1:])])
    else:
        images = ConcatDataset([train.images, extra.images])
    return LabelledSubset(
        images,
        torch.cat([train.target, extra.target]),
        torch.cat([train.index, extra.index + len(train.images)]),
        hashlib.sha256(f"{train.fingerprint} {extra.fingerprint}".encode()).hexdigest(),
    )


def in_memory(pool: LabelledSubset, shape: torch.Size) -> Tensor:
    """All images of a pool of files, uint8 (N, C, H, W) of the given ``shape`` (C, H, W)."""
    channels, height, width = shape
    crop = CentreCrop((height, width))
    mode = "L" if channels == 1 else "RGB"
    return torch.stack([as_tensor(crop(pool.images[row][0].convert(mode))) for row in range(len(pool))])
