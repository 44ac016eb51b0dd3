"""What the losses of data-free distillation are at their ends. Their values are in tests/golden."""

from __future__ import annotations

import pytest
import torch

from kd_core.errors import KDError
from kd_core.losses import information_entropy


def test_the_entropy_is_least_where_all_classes_are_as_frequent() -> None:
    sure = torch.eye(10) * 50
    assert information_entropy(sure).item() == pytest.approx(-1)
    assert information_entropy(sure[:1]).item() == pytest.approx(0)
    assert information_entropy(torch.zeros(4, 100)).item() == pytest.approx(-2)


def test_the_entropy_bears_a_class_that_is_masked() -> None:
    logits = torch.randn(4, 3)
    logits[:, 1] = -torch.inf
    logits.requires_grad_()
    value = information_entropy(logits)
    value.backward()
    assert value.item() == pytest.approx(information_entropy(logits[:, [0, 2]]).item())
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_one_class_has_no_entropy() -> None:
    with pytest.raises(KDError, match="two classes or more"):
        information_entropy(torch.zeros(4, 1))
