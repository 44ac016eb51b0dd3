"""Images without labels, added to the training images: what a student can learn from its teacher alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset

from kd_core.data.file_paths import FileNames, FilePaths
from kd_core.data.images import image_names, passed_over
from kd_core.data.screening import refuse
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_vision.data.folders import files_subset, readable, without_unreadable
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset
from kd_vision.data.loading import CentreCrop, as_tensor


def with_unlabelled(parts: Parts[LabelledSubset], folder: Path, *, skip: bool = False) -> Parts[LabelledSubset]:
    """All images in ``folder`` and below among those that train; with ``skip``, those that can be read."""
    assert parts.train is not None
    others: dict[str, int] = {}
    paths = FilePaths({folder: FileNames(image_names(folder, others))})
    if not len(paths):
        raise KDError(f"there are no images in {folder}", path="data.unlabelled")
    extra, notes = files_subset(folder, paths, np.full(len(paths), UNLABELLED)), passed_over(others, folder)
    if skip:
        extra, skipped = without_unreadable(extra)
        notes += skipped
    train = appended(parts.train, extra)
    origin = parts.origins["train"]
    extended = replace(origin, added=len(train) - len(parts.train))
    return replace(parts, train=train, origins={**parts.origins, "train": extended}, notes=(*parts.notes, *notes))


def appended(train: LabelledSubset, extra: LabelledSubset) -> LabelledSubset:
    """``train`` with the images of ``extra``, numbered on from the data set's last row.

    Beside images in memory they are resized and cropped to the same shape. KDError where any cannot be read then.
    """
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


def in_memory(subset: LabelledSubset, shape: torch.Size) -> Tensor:
    """All images of a subset of files, uint8 (N, C, H, W) of the given ``shape`` (C, H, W)."""
    channels, height, width = shape
    files = readable(subset)
    refuse(files.errors(whole=True).values() if files else ())
    crop = CentreCrop((height, width))
    mode = "L" if channels == 1 else "RGB"
    return torch.stack([as_tensor(crop(subset.images[row][0].convert(mode))) for row in range(len(subset))])
