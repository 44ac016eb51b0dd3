"""The random crop of training images is torchvision's, bit for bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from kd_vision.data.crops import ResizedCropFlip
from kd_vision.data.decoding import decoded_jpeg
from kd_vision.data.loading import as_tensor


def pixels(height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def drawn(transform: Any, image: Any, seed: int) -> tuple[Tensor, float]:
    """What a transform makes of an image, and what the generator gives next."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return as_tensor(transform(image)), torch.rand(1).item()


@pytest.mark.parametrize(
    ("shape", "mode"),
    [
        ((50, 71), "bilinear"),
        ((12, 12), "bicubic"),
        ((50, 71), "nearest"),
        ((200, 9), "bilinear"),  # of these two no crop fits
        ((9, 200), "bilinear"),
    ],
)
def test_crops_are_those_of_torchvision(shape: tuple[int, int], mode: str) -> None:
    theirs = v2.Compose(
        [
            v2.RandomResizedCrop((24, 16), interpolation=v2.InterpolationMode(mode)),
            v2.RandomHorizontalFlip(),
        ]
    )
    ours, array = ResizedCropFlip((24, 16), mode), pixels(*shape)
    picture, tensor = Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)
    for seed in range(3):
        for image, other in (
            (picture, picture),
            (picture.convert("L"), picture.convert("L")),
            (tensor.contiguous(), tensor.contiguous()),
            (tensor, tensor.contiguous()),  # however it lies in memory
            (tensor[:1].expand(3, -1, -1), tensor[:1].expand(3, -1, -1).contiguous()),
            (tensor.float() / 255, tensor.float().contiguous() / 255),
        ):
            (crop, after), (expected, after_theirs) = drawn(ours, image, seed), drawn(theirs, other, seed)
            assert torch.equal(crop, expected)
            assert after == after_theirs


@pytest.mark.parametrize("colour", ["RGB", "L"])
def test_decoded_files_are_cropped_as_their_copies(colour: str) -> None:
    content = io.BytesIO()
    Image.fromarray(pixels(90, 120)).convert(colour).save(content, "JPEG")
    image = decoded_jpeg(content.getvalue())
    assert image is not None
    assert not image.is_contiguous()  # the whole image is not copied for the part that is cropped
    theirs = v2.Compose([v2.RandomResizedCrop(32), v2.RandomHorizontalFlip()])
    for seed in range(4):
        expected = drawn(theirs, image.contiguous(), seed)[0]
        assert torch.equal(drawn(ResizedCropFlip((32, 32)), image, seed)[0], expected)
