"""Adapters of methods on logits."""

from __future__ import annotations

import pytest
import torch

from kd_core.adapters import ADAPTERS
from kd_core.errors import KDError
from kd_core.losses import ctkd


def test_a_learned_number_raises_the_loss_by_its_temperature() -> None:
    number = ADAPTERS.get("learned_number")([torch.empty(2, 3, device="meta")], None, None)
    student, teacher = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([[0.0, 1.0, -2.0]])
    losses = []
    for _ in range(2):
        loss = ctkd(student, teacher, number(None))
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for parameter in number.parameters():
                parameter -= 0.1 * parameter.grad  # type: ignore[operator]
                parameter.grad = None
    assert losses[1] > losses[0]


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 3), (2, 3, 5, 4)])
def test_a_pooled_classifier_averages_over_the_places(shape: tuple[int, ...]) -> None:
    module = ADAPTERS.get("pooled_classifier")([torch.empty(shape, device="meta")], torch.empty(2, 7), None)
    features = torch.tensor([[-3.0, 0.0, 5.0], [2.0, 7.0, -1.0]])  # whole numbers have exact means
    places = {2: features, 3: features[:, None], 4: features[:, :, None, None]}[len(shape)]
    assert torch.equal(module(places.expand(shape)), module[1](features))  # type: ignore[index]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(KDError, match="pooled_classifier takes"):
        ADAPTERS.get("pooled_classifier")([torch.empty(2)], None, 3)
    with pytest.raises(KDError, match="the map has 3 channels, and the classifier reads 5"):
        ADAPTERS.get("region_pool")([torch.empty(2, 3, 4, 4)], torch.empty(2, 5), None)
    with pytest.raises(KDError, match="scales must be whole numbers above 0"):
        ADAPTERS.get("region_pool")([torch.empty(2, 3, 4, 4)], None, None, scales=[2, 0])
