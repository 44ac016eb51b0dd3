"""Images without labels, all of a folder: ``data: {images: FOLDER}``. They teach what a teacher says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from kd_core.data.file_paths import FileNames, FilePaths
from kd_core.data.images import image_names, passed_over
from kd_core.data.sources import Parts
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_vision.data.folders import White, files_subset
from kd_vision.data.labelled_subset import UNLABELLED, LabelledSubset
from kd_vision.data.sources import SOURCES, ImageSource


def read_images(
    root: Path, *, images: Annotated[str, Field(min_length=1)], white: White = None
) -> Parts[LabelledSubset]:
    """The images in a folder and in those below it, as training images; KDError where there are none."""
    named = user_path(images)
    folder = root / named if (root / named).is_dir() else named
    if not folder.is_dir():
        raise KDError(f"there is no folder {images}", path="images")
    others: dict[str, int] = {}
    paths = FilePaths({folder: FileNames(image_names(folder, others))})
    if not len(paths):
        raise KDError(f"there are no images in {folder}", path="images")
    train = files_subset(folder, paths, np.full(len(paths), UNLABELLED), white)
    return Parts(train, None, None, None, {"train": str(folder)}, notes=tuple(passed_over(others, folder)))


SOURCES("images")(
    ImageSource(
        "images without labels, all in a folder and below it: images: FOLDER",
        read_images,
        splits=("train",),
        size=224,
        channels=3,
        augment="resized_crop_flip",
    )
)
