"""Gradients that are written out: what gradcheck of the contracts and the goldens do not look at."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import dkd, ickd, kd, pad_l2, rkd_angle, srd
from kd_core.losses.closed_form import gram, mean_square, unit

STUDENT, TEACHER = (torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
LABELS = torch.arange(4)
OF_ROWS: dict[str, Callable[[Tensor], Tensor]] = {
    "kd": lambda rows: kd(rows, TEACHER),
    "dkd": lambda rows: dkd(rows, TEACHER, LABELS),
    "srd": lambda rows: srd(rows, TEACHER),
    "pad_l2": lambda rows: pad_l2(rows, TEACHER, TEACHER),
    "rkd_angle": lambda rows: rkd_angle(rows, TEACHER),
    "ickd": lambda rows: ickd(rows[None], TEACHER[None]),
    "unit": lambda rows: unit(rows).square().sum(),
    "gram": lambda rows: gram(rows).square().sum(),
    "mean_square": lambda rows: mean_square(rows).square().sum(),
}


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_gradient_of_a_gradient_is_refused_not_wrong(name: str) -> None:
    student = STUDENT.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(OF_ROWS[name](student), student, create_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(OF_ROWS[name](student), student)[0])
    with pytest.raises(KDError, match="has no gradient itself"):
        (gradient.sum() + student.sum()).backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [kd, lambda student, teacher: dkd(student, teacher, LABELS)])
def test_what_the_student_alone_rules_out_is_infinitely_far(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    student = STUDENT.to(dtype).index_fill(1, torch.tensor(4), -torch.inf).requires_grad_()
    value = loss(student, TEACHER.to(dtype))
    assert value.isposinf()
    assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_vectors_of_zeros_stay_zeros_without_a_gradient() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    units = unit(rows)
    assert units.tolist() == [[0.0, 0.0], pytest.approx([0.6, 0.8])]
    units[:, 0].sum().backward()
    assert rows.grad is not None
    assert rows.grad[0].tolist() == [0.0, 0.0]
    assert rows.grad[1].tolist() == pytest.approx([0.128, -0.096])  # what is across (3, 4), over 5
