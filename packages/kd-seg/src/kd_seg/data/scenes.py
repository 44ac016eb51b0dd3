"""Generated scenes with exact masks: see :mod:`kd_core.data.scenes`."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kd_core.data.scenes import CLASSES, TRAIN, VAL, VERSION, SceneRows, scene
from kd_core.data.sources import Parts
from kd_seg.data.sources import SOURCES, MaskSource, PairSubset

if TYPE_CHECKING:
    from PIL.Image import Image


class Scenes(SceneRows):
    """Scenes with their masks, made when they are read."""

    def __init__(self, first: int, count: int) -> None:
        super().__init__(first, count)
        self.fingerprint = hashlib.sha256(f"scenes {VERSION} {first} {count}".encode()).hexdigest()

    def read(self, row: int) -> tuple[Image, NDArray[np.int16]]:
        """An RGB image and its mask (height, width)."""
        from PIL import Image

        drawn = scene(self.first + row)
        return Image.fromarray(drawn.image), drawn.mask


def read_scenes() -> Parts[PairSubset]:
    """400 scenes to train on and 100 to validate; nothing is read."""
    return Parts(PairSubset(Scenes(0, TRAIN)), PairSubset(Scenes(TRAIN, VAL)), None, CLASSES)


SOURCES("scenes")(
    MaskSource(
        f"{TRAIN} + {VAL} generated images of about 80x80 pixels, 5 shapes and background; no download",
        read_scenes,
        splits=("train", "val"),
        classes=CLASSES,
        size=64,
        crop=(64, 64),
    )
)
