"""DAFL's step and its generator equal the authors' code (made by make_data_free.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import WEIGHTS, goldens, near, tensor
from make_data_free import ramp, summary
from recipes import Input, weigh

from kd_core.adapters import hard_labels, image_generator
from kd_core.losses import cross_entropy, feature_activation, information_entropy, kd


@pytest.mark.parametrize("golden", goldens("methods/dafl"))
def test_a_step_equals_its_reference(golden: dict[str, Any]) -> None:
    given, weights = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}, golden["weights"]
    logits = given["logits"]
    value = (
        weights["oh"] * cross_entropy(logits, hard_labels([logits], None, None)(logits))
        + weights["ie"] * information_entropy(logits)
        + weights["a"] * feature_activation(given["features"])
        + kd(given["student"], logits.detach(), temperature=1.0)
    )
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)


@pytest.mark.parametrize("golden", goldens("methods/image_generator"))
def test_the_generator_equals_its_reference(golden: dict[str, Any]) -> None:
    noise = Input(**golden["noise"]).tensor().requires_grad_()
    batch = torch.empty(golden["shape"], device="meta")
    module: Any = image_generator([batch], None, None, latent=noise.shape[1]).double().train()
    weigh(module, WEIGHTS)
    images = module.generate(noise)
    near(images, golden["images"])
    (images * ramp(images)).square().mean().backward()
    near(noise.grad, golden["gradient"])
    for parameter, gradient in zip(module.parameters(), golden["of_weights"], strict=True):
        near(torch.tensor(summary(parameter.grad), dtype=torch.float64), gradient)
