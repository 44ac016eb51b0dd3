"""Adapters and CRD's memory equal their reference code (made by make_methods.py)."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.adapters import ADAPTERS, embedding
from kd_core.losses import CRD

HERE = Path(__file__).parent
RECIPE = runpy.run_path(str(HERE / "make_losses.py"))
Input, weigh = RECIPE["Input"], RECIPE["weigh"]


def goldens(name: str) -> list[Any]:
    found = json.loads((HERE / "methods" / f"{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(each, id=f"{each.get('adapter', name)}-{number}") for number, each in enumerate(found)]


def tensor(recipe: dict[str, Any]) -> Tensor:
    made: Tensor = Input(**recipe).tensor()
    return made.requires_grad_(not recipe["whole"])


def near(ours: Tensor | None, golden: list[float]) -> None:
    assert ours is not None
    torch.testing.assert_close(
        ours.detach().flatten(), torch.tensor(golden, dtype=torch.float64), rtol=1e-9, atol=1e-11
    )


@pytest.mark.parametrize("golden", [*goldens("adapters"), *goldens("logits")])
def test_an_adapter_equals_its_reference(golden: dict[str, Any]) -> None:
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
        near(torch.zeros_like(each) if each.grad is None else each.grad, gradient)
    for parameter, gradient in zip(module.parameters(), golden["of_weights"], strict=True):
        near(parameter.grad, gradient)


class Drawn(nn.Module):
    """Rows drawn beforehand, in the place of those that CRD draws."""

    def __init__(self, draws: list[Tensor], candidates: int) -> None:
        super().__init__()
        self.draws, self.candidates = iter(draws), candidates

    def forward(self, index: Tensor, seed: Tensor) -> Tensor:
        return torch.cat([index[:, None], next(self.draws).long()], dim=1)


@pytest.mark.parametrize("dense", [0, 1000])
@pytest.mark.parametrize("golden", goldens("crd"))
def test_crd_equals_its_reference(golden: dict[str, Any], dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_core.losses.contrastive.DENSE", dense)
    memories = {name: tensor(each).detach() for name, each in golden["memories"].items()}
    samples, dim = memories["student_memory"].shape
    draws = [tensor(each) for each in golden["draws"]]
    loss = CRD(num_samples=samples, dim=dim, negatives=draws[0].shape[1]).double()
    loss.load_state_dict({**loss.state_dict(), **memories})
    loss.rows = Drawn(draws, samples)  # type: ignore[assignment]
    given = {name: tensor(each) for name, each in golden["inputs"].items()}
    heads = {name: embedding([each], None, dim).double() for name, each in given.items()}
    for name, head in heads.items():
        weigh(head, golden["weights"][name])
    index = torch.tensor(golden["index"])
    values = [loss(heads["student"](given["student"]), heads["teacher"](given["teacher"]), index) for _ in draws]
    assert [value.item() for value in values] == pytest.approx(golden["values"], rel=1e-9)
    sum(values).backward()  # type: ignore[union-attr]
    for name, gradient in golden["gradients"].items():
        near(given[name].grad, gradient)
    for name, memory in golden["after"].items():
        near(loss.get_buffer(name), memory)
