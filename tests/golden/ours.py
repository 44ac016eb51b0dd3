"""Our losses on what a golden was made of."""

from __future__ import annotations

import inspect
import json
from typing import Any

import torch
from recipes import HERE, Input, weigh
from torch import Tensor, nn

from kd_core.losses import LOSSES

SEED = 400
"""Of the parameters of a loss that has some: its reference's are those that ``weigh(module, 400)`` gives."""


def goldens_of(name: str) -> list[Any]:
    """The records of a loss."""
    found: list[Any] = json.loads((HERE / "losses" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def inputs(golden: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The tensors of a record by name; all but whole numbers get a gradient."""
    made = {name: Input(**recipe).tensor() for name, recipe in golden["inputs"].items()}
    return {
        name: each.to(dtype).requires_grad_()
        if each.is_floating_point() and not golden["inputs"][name]["whole"]
        else each
        for name, each in made.items()
    }


def wires(given: dict[str, Tensor]) -> dict[str, Any]:
    """The tensors by the names of a loss's wires; NAME/0, NAME/1, ... are a list."""
    named: dict[str, Any] = {}
    for key, tensor in given.items():
        wire, listed, _ = key.partition("/")
        if listed:
            named.setdefault(wire, []).append(tensor)
        else:
            named[wire] = tensor
    return named


def call(loss: Any, given: dict[str, Tensor], values: dict[str, Any]) -> Tensor:
    """The loss, a name or a function, of a record's tensors; one with parameters has them by formula."""
    if isinstance(loss, str):
        loss = LOSSES.get(loss)
    named = wires(given)
    if not inspect.isclass(loss):
        value: Tensor = loss(**named, **values)
        return value
    build = getattr(loss, "from_inputs", None)
    module: nn.Module = build(named, **values) if build else loss(**values)
    first = next(iter(given.values()))
    weigh(module, SEED)
    module.to(first.dtype)
    made: Tensor = module(**named)
    return made


def deviations(loss: Any, golden: dict[str, Any]) -> tuple[float, float]:
    """How far value and gradients are from a record: relative to the value, and to each gradient's largest element."""
    given = inputs(golden)
    value = call(loss, given, golden["values"])
    value.backward()
    away = [0.0]
    for wire, numbers in golden["gradients"].items():
        expected = torch.tensor(numbers, dtype=torch.float64).reshape(given[wire].shape)
        found = given[wire].grad
        assert found is not None
        away.append(_relative((found - expected).abs().max().item(), expected.abs().max().item()))
    return _relative(abs(value.item() - golden["value"]), abs(golden["value"])), max(away)


def _relative(difference: float, size: float) -> float:
    return difference / size if size > TINY else difference


TINY = 1e-14
"""What is smaller counts as 0, to which nothing is relative."""
