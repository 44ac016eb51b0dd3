"""Training without images of the data set: what stands in their place for a method that makes images itself."""

from __future__ import annotations

from dataclasses import replace

import torch

from kd_core.data.sources import Origin, Parts
from kd_core.errors import KDError
from kd_core.notes import Note
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset


def with_generated(parts: Parts[LabelledSubset], count: int, shape: tuple[int, ...] | None) -> Parts[LabelledSubset]:
    """``count`` black images (C, H, W) without labels in the place of the training images, of which none is left.

    They take no memory of their own. KDError where ``shape`` is None: then only reading tells the images' size.
    """
    assert parts.train is not None
    if shape is None:
        raise KDError("needs images of one size", hint="write data.size", path="data.generated")
    images = torch.zeros(1, *shape, dtype=torch.uint8).expand(count, *shape)
    target = torch.full((count,), UNLABELLED)
    train = LabelledSubset(images, target, torch.arange(count), f"{count} generated images {shape}")
    note = Note(f"no training image is used: a method makes {count:,} images an epoch instead")
    origins = {**parts.origins, "train": Origin("train", train)}
    return replace(parts, train=train, origins=origins, notes=(*parts.notes, note))
