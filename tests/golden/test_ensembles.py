"""AE-KD's loss equals its reference code, as far as that goes: its support vector machine computes in float32."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from ours import call, inputs
from recipes import HERE
from torch import Tensor

from kd_core.losses import LOSSES

NAME = "adaptive_ensemble_kd"
GOLDENS = json.loads((HERE / "methods" / f"{NAME}.json").read_text(encoding="utf-8"))
BOUND = 1e-6


def away(loss: Any, golden: dict[str, Any]) -> float:
    """How far value and gradient are from the reference."""
    given = inputs(golden)
    value = call(loss, given, golden["values"])
    value.backward()
    differences = [abs(value.item() - golden["value"])]
    for wire, numbers in golden["gradients"].items():
        found = given[wire].grad
        assert found is not None
        differences.append((found.flatten() - torch.tensor(numbers, dtype=torch.float64)).abs().max().item())
    return max(differences)


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: str(golden["values"]))
def test_value_and_gradients_equal_the_reference(golden: dict[str, Any]) -> None:
    assert away(NAME, golden) < BOUND


def mutants() -> dict[str, Any]:
    """Ways in which the loss might be wrong."""
    loss: Any = LOSSES.get(NAME)

    def scaled(**given: Any) -> Tensor:
        return loss(**given) * 1.01

    def without_factor(**given: Any) -> Tensor:
        return loss(**given) / given["temperature"] ** 2

    def plain_mean(**given: Any) -> Tensor:
        return loss(**{**given, "tolerance": 1e-9, "normalize": False})

    def uncapped(**given: Any) -> Tensor:
        return loss(**{**given, "tolerance": 1.0})

    def other_lengths(**given: Any) -> Tensor:
        return loss(**{**given, "normalize": not given["normalize"]})

    return {made.__name__: made for made in (scaled, without_factor, plain_mean, uncapped, other_lengths)}


@pytest.mark.parametrize("mutant", mutants().items(), ids=lambda item: item[0])
def test_the_goldens_tell_a_wrong_loss(mutant: tuple[str, Any]) -> None:
    assert max(away(mutant[1], golden) for golden in GOLDENS) > 1e3 * BOUND
