"""Tokens as feature maps."""

from __future__ import annotations

import pytest
import torch

from kd_core.adapters import token_map
from kd_core.errors import KDError


def test_patches_become_a_map_and_what_stands_before_them_is_left_out() -> None:
    patches = torch.randn(2, 9, 5)
    tokens = torch.cat([torch.full((2, 2, 5), 9.0), patches], 1)
    made = token_map([tokens], None, None)(tokens)
    assert torch.equal(made, patches.transpose(1, 2).unflatten(2, (3, 3)))
    assert torch.equal(token_map([tokens], None, None, prefix=2)(tokens), made)


@pytest.mark.parametrize("source", [torch.randn(2, 17, 5), torch.randn(2, 5, 6, 6)])
def test_maps_get_the_size_that_is_asked_for(source: torch.Tensor) -> None:
    adapter = token_map([source], torch.zeros(2, 3, 7, 8), None)
    assert adapter(source).shape == (2, 5, 7, 8)
    assert not list(adapter.parameters())


def test_what_is_no_grid() -> None:
    with pytest.raises(KDError, match=r"60 tokens are no square grid of patches\n.*`prefix`"):
        token_map([torch.zeros(1, 60, 4)], None, None, prefix=3)
    with pytest.raises(KDError, match="token_map takes tokens"):
        token_map([torch.zeros(1, 60)], None, None)
    with pytest.raises(KDError, match="match must be a map"):
        token_map([torch.zeros(1, 16, 4)], torch.zeros(1, 4), None)
    with pytest.raises(KDError, match="takes no out_features"):
        token_map([torch.zeros(1, 16, 4)], None, 4)
