"""DAFL's generator: what it reads of a batch, and where its noise comes from. Its values are in tests/golden."""

from __future__ import annotations

import pytest
import torch

from kd_core.adapters import image_generator
from kd_core.errors import KDError


def test_it_reads_the_shape_of_a_batch_and_no_pixel() -> None:
    module = image_generator([torch.empty(2, 3, 8, 4, device="meta")], None, None, latent=5)
    torch.manual_seed(0)
    first = module(torch.zeros(6, 3, 8, 4))
    torch.manual_seed(0)
    assert torch.equal(first, module(torch.full((6, 3, 8, 4), torch.nan)))
    assert first.shape == (6, 3, 8, 4)
    assert not torch.equal(first, module(torch.zeros(6, 3, 8, 4)))


@pytest.mark.parametrize(
    ("shape", "width", "message"),
    [((2, 3, 6, 8), None, "multiples of 4"), ((2, 8), None, "feature maps"), ((2, 3, 8, 8), 4, "takes neither match")],
)
def test_what_it_refuses(shape: tuple[int, ...], width: int | None, message: str) -> None:
    with pytest.raises(KDError, match=message):
        image_generator([torch.empty(shape, device="meta")], None, width)
