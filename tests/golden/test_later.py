"""SimKD as a whole, CS-KD and DiffKD equal their authors' code (made by make_later.py)."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kd_core.adapters import denoiser, pool, simkd_projector
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


@pytest.mark.parametrize("golden", goldens("diffkd"))
def test_diffkd_equals_its_reference(golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    module = denoiser([given["student"], given["teacher"]], None, None, **golden["options"]).double().train()
    weigh(module, 700)
    noises = iter([tensor(recipe).detach() for recipe in golden["noises"]])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(noises))
    monkeypatch.setattr(torch, "randint", lambda *_, **__: tensor(golden["steps"]).long())
    fields = module(given["student"], given["teacher"])
    losses = {
        "refined": mse(fields["refined"], fields["target"]),
        "noise": mse(fields["predicted"], fields["noise"]),
    }
    if "reconstruction" in fields:
        losses["reconstruction"] = mse(fields["reconstruction"], given["teacher"])
    assert losses.keys() == golden["values"].keys()
    for name, value in losses.items():
        assert value.item() == pytest.approx(golden["values"][name], rel=1e-9)
    torch.stack(list(losses.values())).sum().backward()
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    learned = [parameter for name, parameter in module.named_parameters() if "predictor.steps" not in name]
    for parameter, gradient in zip(learned, golden["of_weights"].values(), strict=True):
        near(parameter.grad, gradient)
