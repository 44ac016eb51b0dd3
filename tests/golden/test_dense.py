"""What KTAAD and pixel-wise distillation take from losses and adapters that were there: equal to their code.

The losses themselves are in losses/*.json, for test_losses.py; make_dense.py made them all.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.adapters import ADAPTERS
from kd_core.losses import kd, soft_cross_entropy

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_losses.py"))
Input, weigh = RECIPE["Input"], RECIPE["weigh"]


def goldens(name: str) -> list[Any]:
    found = json.loads((HERE / "dense" / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(each, id=f"{each['symbol']}-{number}") for number, each in enumerate(found)]


def tensor(recipe: dict[str, Any]) -> Tensor:
    made: Tensor = Input(**recipe).tensor()
    return made.requires_grad_()


def near(ours: Tensor | None, golden: list[float]) -> None:
    assert ours is not None
    torch.testing.assert_close(
        ours.detach().flatten(), torch.tensor(golden, dtype=torch.float64), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("golden", goldens("adapters"))
def test_an_adapter_of_ktaad_equals_torchdistills(golden: dict[str, Any]) -> None:
    given = [tensor(each) for each in golden["inputs"]]
    like = golden["like"] and torch.empty(golden["like"], device="meta")
    module = ADAPTERS.get(golden["adapter"])([g.to("meta") for g in given], like, golden["to"], **golden["values"])
    module = module.double().train()
    weigh(module, 400)
    outputs = module(*given)
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    assert set(outputs) == set(golden["outputs"])
    for name, values in golden["outputs"].items():
        near(outputs[name], values)
    sum(each.square().mean() for each in outputs.values()).backward()
    for each, gradient in zip(given, golden["gradients"], strict=True):
        near(each.grad, gradient)
    for parameter, gradient in zip(module.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)


@pytest.mark.parametrize("golden", goldens("pixelwise"))
def test_pixelwise_is_soft_cross_entropy_times_samples_and_classes(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    samples, classes = given["student"].shape[:2]
    value = samples * classes * soft_cross_entropy(**given)
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    near(given["student"].grad, golden["gradients"]["student"])
    near(given["teacher"].grad, golden["gradients"]["teacher"])


@pytest.mark.parametrize("golden", goldens("pixelwise"))
def test_kd_has_the_gradient_of_pixelwise_over_samples(golden: dict[str, Any]) -> None:
    """They differ by the entropy of the teacher, of which a student knows nothing."""
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    (len(given["student"]) * kd(**given, temperature=1.0)).backward()
    near(given["student"].grad, golden["gradients"]["student"])
