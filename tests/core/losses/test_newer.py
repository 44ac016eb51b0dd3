"""NORM's and OFA-KD's losses: what they refuse, and where they are equal to others."""

from __future__ import annotations

import pytest
import torch

from kd_core.errors import KDError
from kd_core.losses import many_to_one, mse, ofa, soft_cross_entropy


def test_one_part_of_many_to_one_is_the_mean_squared_difference() -> None:
    student, teacher = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    torch.testing.assert_close(many_to_one(student, teacher), mse(student, teacher))


@pytest.mark.parametrize("shape", [(3, 5, 2, 2), (3, 4, 3, 2), (2, 4, 2, 2), (3,)])
def test_features_that_are_not_n_times_the_teachers_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(KDError, match="N times teacher's channels"):
        many_to_one(torch.zeros(shape), torch.zeros(3, 2, 2, 2))


def test_ofa_with_eps_1_is_the_soft_cross_entropy() -> None:
    student, teacher, target = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 4, 2])
    expected = 5 * soft_cross_entropy(student, teacher, temperature=2.0)
    torch.testing.assert_close(ofa(student, teacher, target, temperature=2.0), expected)


def test_the_largest_probability_of_a_soft_target_is_ofas_target_class() -> None:
    student, teacher, target = torch.randn(4, 5), torch.randn(4, 5), torch.tensor([0, 1, 4, 2])
    soft = torch.nn.functional.one_hot(target, 5) * 0.9 + 0.02
    assert torch.equal(ofa(student, teacher, soft, eps=1.5), ofa(student, teacher, target, eps=1.5))


def test_ofa_of_probabilities_of_0_has_a_finite_gradient() -> None:
    student = torch.randn(2, 3, requires_grad=True)
    teacher = torch.tensor([[200.0, 0.0, -200.0], [-torch.inf, 1.0, 2.0]], requires_grad=True)
    ofa(student, teacher, torch.tensor([0, 1]), eps=0.5).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert teacher.grad is not None
    assert teacher.grad.isfinite().all()


@pytest.mark.parametrize(
    ("shape", "target", "said"),
    [
        ((2, 1), [0, 0], "at least two classes"),
        ((2, 3, 4), [0, 0], "at least two classes"),
        ((2, 3), [0, 3], "a label that is not below 3"),
        ((2, 3), [0], "target (1,) does not fit student (2, 3)"),
    ],
)
def test_what_ofa_refuses(shape: tuple[int, ...], target: list[int], said: str) -> None:
    with pytest.raises(KDError) as error:
        ofa(torch.zeros(shape), torch.zeros(shape), torch.tensor(target))
    assert said in str(error.value)
