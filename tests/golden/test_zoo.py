"""The zoo's models have torchdistill's state dicts and outputs (made by make_zoo.py)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import kd_zoo.models  # noqa: F401
from kd_core.models.registry import MODELS

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_zoo.py"))
GOLDENS: dict[str, dict[str, Any]] = json.loads((HERE / "zoo.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", GOLDENS)
def test_state_dicts_have_the_same_keys_and_shapes_in_the_same_order(name: str) -> None:
    _, arguments = RECIPE["OUTPUTS"].get(name, (None, {}))
    with torch.device("meta"):
        lines = RECIPE["shapes"](MODELS.get(name)(**arguments))
    golden = GOLDENS[name]
    if golden.get("shapes"):
        assert lines == golden["shapes"]
    assert len(lines) == golden["entries"]
    assert RECIPE["digest"](lines) == golden["shapes_sha256"]


@pytest.mark.parametrize("name", [name for name, golden in GOLDENS.items() if "logits" in golden])
@torch.no_grad()
def test_equal_weights_give_equal_outputs(name: str) -> None:
    _, arguments = RECIPE["OUTPUTS"][name]
    model = MODELS.get(name)(**arguments).eval()
    RECIPE["fill"](model)
    logits = model(RECIPE["images"]())
    expected = torch.tensor(GOLDENS[name]["logits"])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", [name for name in GOLDENS if name.startswith("wrn")])
def test_torchdistills_names_are_aliases(name: str) -> None:
    _, depth, width = name.split("-")
    assert MODELS.get(f"wide_resnet{depth}_{width}") is MODELS.get(name)
