"""SimKD as a whole and CS-KD equal their authors' code (made by make_later.py)."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kd_core.adapters import pool, simkd_projector
from kd_core.losses import cross_entropy, kd, mse

HERE = Path(__file__).parent
SHARED = runpy.run_path(str(HERE / "test_methods.py"))
goldens, near, tensor, weigh = (SHARED[name] for name in ("goldens", "near", "tensor", "weigh"))


@pytest.mark.parametrize("golden", goldens("simkd"))
def test_simkd_equals_its_reference(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    student, teacher = given["student"], given["teacher"]
    projector = simkd_projector([student], teacher, None, factor=golden["factor"]).double()
    classifier = nn.Linear(teacher.shape[1], 3).double()
    weigh(projector, 400)
    weigh(classifier, 500)
    projected = projector(student)
    value = mse(projected, pool([teacher], projected, None)(teacher))
    value.backward()
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    near(classifier(pool([projected], None, None)(projected)), golden["logits"])
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    for parameter, gradient in zip(projector.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)


@pytest.mark.parametrize("golden", goldens("cs_kd"))
def test_cs_kd_equals_its_reference(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, golden["classes"])).double()
    weigh(network, 600)
    logits = network(given["student"])
    partner = network(given["partner"]).detach()
    value = cross_entropy(logits, torch.tensor(golden["target"]))
    value = value + golden["weight"] * kd(logits, partner, temperature=golden["temperature"])
    value.backward()
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    near(given["student"].grad, golden["gradients"]["student"])
    for parameter, gradient in zip(network.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)
    for buffer, values in zip(network.buffers(), golden["buffers"], strict=True):
        near(buffer.double(), values)
