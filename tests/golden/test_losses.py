"""Each loss equals its reference code in value and gradient, as the scripts make_*.py ran it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ours import call, goldens_of, inputs
from recipes import HERE

from kd_core.losses import LOSSES

GOLDENS = [
    pytest.param(file.stem, golden, id=f"{file.stem}-{number}-{golden['repository'].split('/')[0]}")
    for file in sorted((HERE / "losses").glob("*.json"))
    for number, golden in enumerate(goldens_of(file.stem))
]
BY_TORCH = {"cross_entropy", "identity", "l1", "smooth_l1", "squared_error"}
ELSEWHERE = {"crd", "cirkd_memory", "vid", "adaptive_ensemble_kd"}
"""Those with a memory or weights, or whose reference is less exact: test_methods, _regions, _tables, _ensembles."""


@pytest.mark.parametrize(("name", "golden"), GOLDENS)
def test_value_and_gradients_equal_the_reference(name: str, golden: dict[str, Any]) -> None:
    given = inputs(golden)
    value = call(name, given, golden["values"])
    assert value.shape == ()
    assert value.item() == pytest.approx(golden["value"], rel=1e-9, abs=1e-14)
    value.backward()
    first = next(iter(given.values())).grad
    assert first is not None
    assert first.isfinite().all()
    for wire, gradient in golden["gradients"].items():
        expected = torch.tensor(gradient, dtype=torch.float64).reshape(given[wire].shape)
        torch.testing.assert_close(given[wire].grad, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "golden"), GOLDENS)
def test_float32_stays_near_the_reference(name: str, golden: dict[str, Any]) -> None:
    value = call(name, inputs(golden, torch.float32), golden["values"])
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(golden["value"], rel=2e-5, abs=1e-7)


def test_every_registered_loss_of_kd_core_has_a_golden() -> None:
    ours = {name for name in LOSSES if LOSSES.get(name).__module__.startswith("kd_core.")}
    assert {golden.values[0] for golden in GOLDENS} == ours - BY_TORCH - ELSEWHERE
