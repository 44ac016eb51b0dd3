"""A model's logits as labels."""

from __future__ import annotations

import pytest
import torch

from kd_core.adapters import hard_labels
from kd_core.errors import KDError


def test_the_likeliest_class_is_the_label() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0], [3.0, 1.0, 0.0]])
    assert hard_labels([logits], None, None)(logits).tolist() == [1, 0]
    maps = logits[:, :, None, None].expand(2, 3, 4, 5)
    assert hard_labels([maps], None, None)(maps).shape == (2, 4, 5)


def test_what_it_does_not_take() -> None:
    with pytest.raises(KDError, match="takes logits"):
        hard_labels([torch.zeros(3)], None, None)
    with pytest.raises(KDError, match="neither match nor out_features"):
        hard_labels([torch.zeros(3, 2)], None, 4)
