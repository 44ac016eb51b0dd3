"""Maps averaged over a grid, and what is no map left alone."""

from __future__ import annotations

import pytest
import torch

from kd_core.errors import KDError
from kd_core.taps.pooled import pooled
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import Capture


def test_maps_are_averaged_and_all_else_stays() -> None:
    maps, logits, labels = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 9), torch.ones(1, 1, 4, 4).long()
    capture = Capture({"maps": maps, "logits": logits}, {Tap("layer"): [maps, labels]})
    found = pooled(capture, 2, "teacher")
    assert found.output["maps"].flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert found.output["logits"] is logits
    assert found.at[Tap("layer")][0].shape == (1, 1, 2, 2)
    assert found.at[Tap("layer")][1] is labels
    assert pooled(capture, None, "teacher") is capture


def test_a_map_smaller_than_the_grid_is_told() -> None:
    capture = Capture(torch.ones(1, 2, 4, 3), {})
    with pytest.raises(KDError, match=r"\(1, 2, 4, 3\) is smaller than 4 x 4 cells"):
        pooled(capture, 4, "teacher")
