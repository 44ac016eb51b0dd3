"""VID, and the adapters of activation boundaries, ICKD, PAD and a whole review, equal their reference code.

make_tables.py made what is compared.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.adapters import ADAPTERS, review
from kd_core.losses import VID

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_losses.py"))
Input, weigh = RECIPE["Input"], RECIPE["weigh"]


def goldens(name: str) -> list[Any]:
    found = json.loads((HERE / "tables" / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(golden, id=f"{golden.get('adapter', name)}-{number}") for number, golden in enumerate(found)]


def tensor(recipe: dict[str, Any]) -> Tensor:
    made: Tensor = Input(**recipe).tensor()
    return made.requires_grad_()


def near(ours: Tensor | None, golden: list[float]) -> None:
    assert ours is not None
    torch.testing.assert_close(
        ours.detach().flatten(), torch.tensor(golden, dtype=torch.float64), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("golden", goldens("adapters"))
def test_an_adapter_equals_its_reference(golden: dict[str, Any]) -> None:
    given = [tensor(recipe) for recipe in golden["inputs"]]
    like = golden["like"] and torch.empty(golden["like"], device="meta")
    module = ADAPTERS.get(golden["adapter"])([g.to("meta") for g in given], like, golden["to"], **golden["values"])
    module = module.double().train()
    weigh(module, 400)
    output = module(*given)
    near(output, golden["outputs"][""])
    output.square().mean().backward()
    for value, gradient in zip(given, golden["gradients"], strict=True):
        near(value.grad, gradient)
    for parameter, gradient in zip(module.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)


@pytest.mark.parametrize("golden", goldens("vid"))
def test_vid_equals_its_reference(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    wires = {wire: [v for name, v in given.items() if name.startswith(wire)] for wire in ("student", "teacher")}
    loss = VID.from_inputs(wires, **golden["values"]).double()
    for layer, start in zip(loss.layers, golden["start"], strict=True):
        torch.testing.assert_close(layer.variance.tolist(), start, rtol=1e-6, atol=0)
    weigh(loss, golden["weights"])
    value = loss(**wires)
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    for parameter, gradient in zip(loss.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)


@pytest.mark.parametrize("golden", goldens("review"))
def test_a_whole_review_equals_its_reference(golden: dict[str, Any]) -> None:
    *features, pooled = (tensor(recipe) for recipe in golden["inputs"])
    *likes, vector = (torch.empty(like, device="meta") for like in golden["like"])
    made = [[feature.to("meta") for feature in features], pooled.flatten(1).to("meta"), vector.flatten(1)]
    module = review(made, likes, None).double().train()
    weigh(module, 400)
    outputs = module(features, pooled.flatten(1))
    outputs = [*outputs["maps"], outputs["pooled"]]
    for output, values in zip(outputs, golden["outputs"], strict=True):
        near(output, values)
    sum(output.square().mean() for output in outputs).backward()
    for value, gradient in zip([*features, pooled], golden["gradients"], strict=True):
        near(value.grad, gradient)
    for parameter, gradient in zip(module.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)
