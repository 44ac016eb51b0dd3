"""What a user's images and masks are: two folders for each split, and the values in the masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kd_core.errors import KDError
from kd_core.starters import Starter, images_in
from kd_seg.data.image_files import read_values

IMAGE_FOLDERS, MASK_FOLDERS = ("images", "image", "imgs", "JPEGImages"), ("masks", "mask", "labels", "annotations")
VOID = 255
MASKS_READ = 100


def starter(path: Path) -> Starter:
    """A config for the folder ``path``; KDError where there are no images with masks."""
    folders = {split: found for split in ("train", "val", "test") if (found := _pair(path, split))}
    if "train" not in folders:
        hint = f"images in {path}/train/images, masks of the same names in {path}/train/masks"
        raise KDError(f"{path}: there are no folders of images and masks", hint=hint)
    masks = images_in(path / folders["train"]["masks"])
    values = sorted({int(value) for mask in masks[:MASKS_READ] for value in np.unique(read_values(mask))})
    void = [value for value in values if value == VOID and len(values) > 2]
    classes = [value for value in values if value not in void]
    data: dict[str, Any] = {
        "root": str(path.resolve()),
        "folders": folders,
        "classes": [f"class{value}" for value in classes],
    }
    if classes != list(range(len(classes))):
        data["values"] = classes
    if not void and VOID in classes:
        data["void"] = []
    data["crop"] = 256
    seen = [f"{len(masks)} training masks, with the values {', '.join(map(str, values[:20]))}"]
    seen += ["the names of the classes are for you to write"]
    student = {"arch": "torchvision.lraspp_mobilenet_v3_large", "weights_backbone": "IMAGENET1K_V1"}
    return Starter(
        "semantic_segmentation", data, student, batch_size=min(8, len(masks)), seen=seen, stage={"drop_last": True}
    )


def _pair(root: Path, split: str) -> dict[str, str] | None:
    """The folders of images and masks of a split, below ``SPLIT/`` or with ``SPLIT`` in them."""
    for images in IMAGE_FOLDERS:
        for masks in MASK_FOLDERS:
            pairs = [(f"{split}/{images}", f"{split}/{masks}"), (f"{images}/{split}", f"{masks}/{split}")]
            pairs += [(images, masks)] if split == "train" else []
            for one, other in pairs:
                if images_in(root / one) and images_in(root / other):
                    return {"images": one, "masks": other}
    return None
