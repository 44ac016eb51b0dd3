"""The adapters of methods on features equal their reference code, as make_maps.py ran it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from recipes import HERE, Input

from kd_core.adapters import ADAPTERS

MARGINS = json.loads((HERE / "methods" / "margins.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("golden", MARGINS)
def test_margins_equal_the_reference(golden: dict[str, Any]) -> None:
    weight, bias = (Input(**golden["inputs"][name]).tensor() for name in ("weight", "bias"))
    features = torch.full((2, len(weight), 3, 3), -100.0, dtype=torch.float64)
    adapter = ADAPTERS.get("margin_relu")([features, weight, bias], None, None)
    expected = torch.tensor(golden["margins"], dtype=torch.float64)
    torch.testing.assert_close(adapter(features, weight, bias)[1, :, 2, 0], expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(adapter(-features, weight, bias), -features)
