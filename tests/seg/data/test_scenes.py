"""The generated scenes as a data set of images with masks."""

from __future__ import annotations

import numpy as np
import pytest

from kd_core.data import scenes
from kd_core.data.scenes import CLASSES, scene
from kd_core.errors import KDError
from kd_seg.data.scenes import Scenes, read_scenes
from kd_seg.data.sources import SOURCES, VOID
from kd_seg.data.spec import DataSpec


def test_void_is_the_packages() -> None:
    assert scenes.VOID == VOID


def test_the_data_set() -> None:
    parts = read_scenes()
    assert parts.val is not None
    assert parts.test is None
    assert (len(parts.train), len(parts.val), parts.classes) == (400, 100, CLASSES)
    assert SOURCES.get("scenes").classes == CLASSES
    assert parts.train.pairs.fingerprint != parts.val.pairs.fingerprint
    image, mask = parts.val.read(7)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), scene(407).image)
    assert image.size == mask.shape[::-1]
    assert parts.val.name(7) == "scene_0407"
    assert Scenes(0, 400).fingerprint == parts.train.pairs.fingerprint


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="scenes"):
        DataSpec(name="scene")
    with pytest.raises(KDError, match="scenes"):
        SOURCES.get("scene")
