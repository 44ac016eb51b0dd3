"""The zoo's models have the state dicts and outputs of torchdistill's and RepDistiller's (made by make_zoo.py)."""

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


def arguments_of(name: str) -> dict[str, Any]:
    """What the golden's model was built with."""
    return {"num_classes": 100} if name in RECIPE["BENCHMARK"] else RECIPE["OUTPUTS"].get(name, (None, {}))[1]


@pytest.mark.parametrize("name", GOLDENS)
def test_state_dicts_have_the_same_keys_and_shapes_in_the_same_order(name: str) -> None:
    with torch.device("meta"):
        lines = RECIPE["shapes"](MODELS.get(name)(**arguments_of(name)))
    golden = GOLDENS[name]
    if golden.get("shapes"):
        assert lines == golden["shapes"]
    assert len(lines) == golden["entries"]
    assert RECIPE["digest"](lines) == golden["shapes_sha256"]


SLOW = {"vgg13", "vgg16", "vgg19"}
"""Seconds of arithmetic, and made of the same blocks as a smaller one."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, golden in GOLDENS.items()
        if "logits" in golden
    ],
)
@torch.no_grad()
def test_equal_weights_give_equal_outputs(name: str) -> None:
    model = MODELS.get(name)(**arguments_of(name)).eval()
    RECIPE["fill"](model)
    logits = model(RECIPE["images"]())
    expected = torch.tensor(GOLDENS[name]["logits"])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("name", [name for name in GOLDENS if name.startswith("wrn") and "benchmark" not in name])
def test_torchdistills_names_are_aliases(name: str) -> None:
    _, depth, width = name.split("-")
    assert MODELS.get(f"wide_resnet{depth}_{width}") is MODELS.get(name)
