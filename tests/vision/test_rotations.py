"""Rotations as views."""

from __future__ import annotations

import pytest
import torch

from kd_core.data.batch import SHARED, Batch
from kd_core.data.views import VIEWS
from kd_core.errors import KDError
from kd_vision.rotations import rotations


def of(images: torch.Tensor) -> Batch:
    return Batch({SHARED: images}, torch.arange(len(images)), torch.arange(len(images)))


def test_four_views_turned_to_the_left() -> None:
    image = torch.tensor([[1, 2], [3, 4]]).reshape(1, 1, 2, 2)
    made = rotations(of(image))
    assert [view.flatten().tolist() for view in made.inputs[SHARED]] == [
        [1, 2, 3, 4],
        [2, 4, 1, 3],
        [4, 3, 2, 1],
        [3, 1, 4, 2],
    ]
    assert made.extra["view"].tolist() == [0, 1, 2, 3]
    assert VIEWS.get("rotations") is rotations


def test_images_must_be_square() -> None:
    with pytest.raises(KDError, match=r"square images, not \(1, 2, 3\)"):
        rotations(of(torch.zeros(1, 1, 2, 3)))
