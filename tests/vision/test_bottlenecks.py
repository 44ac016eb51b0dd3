"""Bottlenecks in the place of classifiers' first layers."""

from __future__ import annotations

import pytest
import torch

from kd_core.errors import KDError
from kd_vision.bottlenecks import FirstLayers


@pytest.mark.parametrize(
    ("family", "side", "shape"),
    [("resnet", 64, (512, 8, 8)), ("densenet", 64, (256, 4, 4)), ("inception", 75, (192, 7, 7))],
)
def test_maps_are_like_those_of_the_layers(family: str, side: int, shape: tuple[int, ...]) -> None:
    """Of torchvision's resnet152.layer2, densenet169.features.transition2 and inception_v3.maxpool2."""
    made = FirstLayers(family=family, channels=9)
    narrow = made.encoder(torch.randn(2, 3, side, side))
    assert narrow.shape[1] == 9
    assert made(torch.randn(2, 3, side, side)).shape == (2, *shape)


def test_other_channels_and_families_are_errors() -> None:
    with pytest.raises(KDError, match="images of 3 channels, not 1"):
        FirstLayers(family="resnet")(torch.randn(1, 1, 32, 32))
    with pytest.raises(KDError, match="family"):
        FirstLayers(family="vgg")
