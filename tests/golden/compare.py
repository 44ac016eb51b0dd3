"""What tests compare with a golden: its inputs, its numbers, and an adapter that it is of."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from recipes import HERE, Input, weigh
from torch import Tensor, nn

from kd_core.adapters import ADAPTERS

WEIGHTS = 400
"""The seed of an adapter's weights: its reference's are those that ``weigh(module, 400)`` gives."""


def goldens(file: str) -> list[Any]:
    """The records of ``FOLDER/NAME`` as parameters of a test, called by their adapter or NAME."""
    found = json.loads((HERE / f"{file}.json").read_text(encoding="utf-8"))
    title = file.rpartition("/")[2]
    return [pytest.param(each, id=f"{each.get('adapter', title)}-{number}") for number, each in enumerate(found)]


def tensor(recipe: dict[str, Any]) -> Tensor:
    """An input; it gets a gradient unless it has whole numbers."""
    return Input(**recipe).tensor().requires_grad_(not recipe["whole"])


def near(ours: Tensor | None, golden: list[float]) -> None:
    """AssertionError unless ours, a tensor of any shape, has the golden's numbers."""
    assert ours is not None
    wanted = torch.tensor(golden, dtype=torch.float64)
    torch.testing.assert_close(ours.detach().flatten(), wanted, rtol=1e-9, atol=1e-11)


def gradients_near(tensors: Iterable[Tensor], golden: Iterable[list[float]]) -> None:
    """AssertionError unless the tensors have the golden's gradients; one that got none has zeros."""
    for each, gradient in zip(tensors, golden, strict=True):
        near(torch.zeros_like(each) if each.grad is None else each.grad, gradient)


def adapter_equals(golden: dict[str, Any]) -> None:
    """AssertionError unless an adapter has the outputs of a golden, and the gradients of their mean squares."""
    given = [tensor(each) for each in golden["inputs"]]
    like = golden["like"] and torch.empty(golden["like"], device="meta")
    shapes = [each.to("meta") for each in given]
    module: nn.Module = ADAPTERS.get(golden["adapter"])(shapes, like, golden["to"], **golden["values"]).double().train()
    weigh(module, WEIGHTS)
    outputs = module(*given)
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    assert set(outputs) == set(golden["outputs"])
    for name, values in golden["outputs"].items():
        near(outputs[name], values)
    sum(each.square().mean() for each in outputs.values()).backward()
    gradients_near(given, golden["gradients"])
    gradients_near(module.parameters(), golden["of_weights"])
