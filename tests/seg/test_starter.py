"""Starter configs for a user's images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.errors import KDError
from kd_seg.starter import starter


def write(folder: Path, values: list[int]) -> None:
    """An image and a mask with these values."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    Image.new("RGB", (len(values), 1)).save(folder / "images" / "a.png")
    Image.fromarray(np.array([values], dtype=np.uint8)).save(folder / "masks" / "a.png")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 2, 255], {"classes": ["class0", "class1", "class2"]}),
        ([0, 255], {"classes": ["class0", "class255"], "values": [0, 255], "void": []}),
        ([1, 3], {"classes": ["class1", "class3"], "values": [1, 3]}),
    ],
)
def test_the_values_in_masks_are_classes(tmp_path: Path, values: list[int], expected: dict[str, object]) -> None:
    write(tmp_path / "train", values)
    data = starter(tmp_path).data
    assert data["folders"] == {"train": {"images": "train/images", "masks": "train/masks"}}
    assert {key: data[key] for key in expected} == expected
    assert ("values" in data) == ("values" in expected)


def test_a_folder_without_masks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="there are no folders of images and masks"):
        starter(tmp_path)
