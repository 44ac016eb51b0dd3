"""AE-KD's loss equals its reference code, whose support vector machine computes in float32; adapters equal theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from compare import WEIGHTS, gradients_near, near
from ours import call, inputs, wires
from recipes import HERE, weigh
from torch import Tensor

from kd_core.adapters import ADAPTERS
from kd_core.losses import LOSSES

NAME = "adaptive_ensemble_kd"


def made(name: str) -> list[Any]:
    found: list[Any] = json.loads((HERE / "methods" / f"{name}.json").read_text(encoding="utf-8"))
    return found


GOLDENS = made(NAME)
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


@pytest.mark.parametrize("golden", made("ensemble_adapters"), ids=lambda golden: golden["adapter"])
def test_an_adapter_equals_its_reference(golden: dict[str, Any]) -> None:
    given = inputs(golden)
    shapes = wires({name: each.to("meta") for name, each in given.items()})
    module = ADAPTERS.get(golden["adapter"])(shapes, None, None).double().train()
    weigh(module, WEIGHTS)
    outputs = dict(golden_outputs(module(**wires(given)), golden))
    for name, values in golden["outputs"].items():
        near(outputs[name], values)
    sum(each.square().mean() for each in outputs.values()).backward()  # type: ignore[union-attr]
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    gradients_near(module.parameters(), golden["of_weights"])


def golden_outputs(found: dict[str, Any], golden: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """The outputs that a golden has, by its names."""
    for name in golden["outputs"]:
        field, _, number = name.partition("/")
        yield name, found[field][int(number)] if number else found[field]


@pytest.mark.parametrize("golden", made("one"), ids=lambda golden: str(golden["inputs"]["student"]["shape"]))
def test_kd_is_ones_loss_but_for_the_1e7_that_it_adds_to_probabilities(golden: dict[str, Any]) -> None:
    given = inputs(golden)
    value = call("kd", given, golden["values"])
    value.backward()
    found, wanted = given["student"].grad, torch.tensor(golden["gradients"]["student"], dtype=torch.float64)
    assert found is not None
    assert value.item() == pytest.approx(golden["value"], abs=1e-5)
    torch.testing.assert_close(found.flatten(), wanted, rtol=0, atol=1e-6)
