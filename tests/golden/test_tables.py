"""VID, and the adapters of activation boundaries, ICKD, PAD and a whole review, equal their reference code.

make_tables.py made what is compared.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import WEIGHTS, adapter_equals, goldens, gradients_near, near, tensor
from recipes import weigh

from kd_core.adapters import review
from kd_core.losses import VID


@pytest.mark.parametrize("golden", goldens("tables/adapters"))
def test_an_adapter_equals_its_reference(golden: dict[str, Any]) -> None:
    adapter_equals(golden)


@pytest.mark.parametrize("golden", goldens("tables/vid"))
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
    gradients_near(loss.parameters(), golden["of_weights"])


@pytest.mark.parametrize("golden", goldens("tables/review"))
def test_a_whole_review_equals_its_reference(golden: dict[str, Any]) -> None:
    *features, pooled = (tensor(recipe) for recipe in golden["inputs"])
    *likes, vector = (torch.empty(like, device="meta") for like in golden["like"])
    made = [[feature.to("meta") for feature in features], pooled.flatten(1).to("meta"), vector.flatten(1)]
    module = review(made, likes, None).double().train()
    weigh(module, WEIGHTS)
    outputs = module(features, pooled.flatten(1))
    outputs = [*outputs["maps"], outputs["pooled"]]
    for output, values in zip(outputs, golden["outputs"], strict=True):
        near(output, values)
    sum(output.square().mean() for output in outputs).backward()
    gradients_near([*features, pooled], golden["gradients"])
    gradients_near(module.parameters(), golden["of_weights"])
