"""Adapters and CRD's memory equal their reference code (made by make_methods.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import adapter_equals, goldens, near, tensor
from recipes import weigh
from torch import Tensor, nn

from kd_core.adapters import embedding
from kd_core.losses import CRD


@pytest.mark.parametrize("golden", [*goldens("methods/adapters"), *goldens("methods/logits")])
def test_an_adapter_equals_its_reference(golden: dict[str, Any]) -> None:
    adapter_equals(golden)


class Drawn(nn.Module):
    """Rows drawn beforehand, in the place of those that CRD draws."""

    def __init__(self, draws: list[Tensor], candidates: int) -> None:
        super().__init__()
        self.draws, self.candidates = iter(draws), candidates

    def forward(self, index: Tensor, seed: Tensor) -> Tensor:
        return torch.cat([index[:, None], next(self.draws).long()], dim=1)


@pytest.mark.parametrize("dense", [0, 1000])
@pytest.mark.parametrize("golden", goldens("methods/crd"))
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
