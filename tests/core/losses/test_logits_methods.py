"""Losses on logits that read labels or transform the teacher: what they refuse, their limits, and their minimum."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import (
    LOSSES,
    dist_channel,
    dist_spatial,
    dkd,
    kd,
    loss_signature,
    mlkd_instance,
    nkd,
    reverse_kl,
    tf_kd,
    ttm,
)
from kd_core.losses.tensors import standardized


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TWO = {
    "dkd": "has a single class beside it",
    "nkd": "has a single class beside it",
    "uskd": "has a single class beside it",
    "rld": "at most one class is ranked below the label's",
}


@pytest.mark.parametrize("name", TWO)
def test_two_classes_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(KDError, match=rf"{name} of student \(4, 2\): .*{TWO[name]}"):
        LOSSES.get(name)(logits(4, 2), logits(4, 2), torch.zeros(4).long())


@pytest.mark.parametrize(("name", "wires"), [("kd", 2), ("mlkd_instance", 2)])
def test_two_classes_cannot_be_standardised(name: str, wires: int) -> None:
    with pytest.raises(KDError, match=r"standardised logits of two classes are always plus and minus 0\.71"):
        LOSSES.get(name)(*(logits(4, 2) for _ in range(wires)), standardize=True)


def test_two_regions_classes_are_refused_by_sdd_dkd_alone() -> None:
    rows, target = logits(3, 5, 2), torch.zeros(3).long()
    with pytest.raises(KDError, match="has a single class beside it"):
        LOSSES.get("sdd_dkd")(rows, rows, target)
    assert LOSSES.get("sdd_kd")(rows, rows, target) == 0


@pytest.mark.parametrize("name", ["dkd", "nkd", "wsld", "rld", "uskd"])
def test_a_label_that_is_no_class_is_an_error(name: str) -> None:
    with pytest.raises(KDError, match="target holds a label that is not below 3, student's classes"):
        LOSSES.get(name)(logits(2, 3), logits(2, 3), torch.tensor([0, 3]))
    with pytest.raises(KDError, match=r"target \(2, 3\) does not fit student"):
        LOSSES.get(name)(logits(2, 3), logits(2, 3), torch.ones(2, 3) / 3)


def test_dkd_takes_the_classes_in_any_dimension() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(2, 5, 4, generator=random) for _ in range(2))
    target = torch.tensor([[0, 1, -100, 4], [-100, -100, 2, 3]])
    last = dkd(student.movedim(1, -1), teacher.movedim(1, -1), target, dim=-1)
    assert torch.equal(last, dkd(student, teacher, target))
    with pytest.raises(KDError, match="have no dimension 3"):
        dkd(student, teacher, target, dim=3)


def test_dkd_is_kd_where_the_teacher_weights_the_other_classes() -> None:
    student, teacher, target = logits(1, 5), logits(1, 5, seed=1), torch.tensor([2])
    beta = 1 - (teacher / 3.0).softmax(1)[0, 2].item()
    decoupled = dkd(student, teacher, target, alpha=1.0, beta=beta, temperature=3.0)
    torch.testing.assert_close(decoupled, kd(student, teacher, temperature=3.0))


def test_very_sure_models_give_finite_gradients_in_float32() -> None:
    student = torch.tensor([[200.0, 0.0, -200.0]], requires_grad=True)
    teacher = torch.tensor([[-200.0, 0.0, 200.0]])
    for name in ("dkd", "nkd", "wsld", "rld"):
        loss = LOSSES.get(name)(student, teacher, torch.tensor([0]))
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite(), name
        assert gradient.isfinite().all(), name


def test_standardised_logits_have_mean_0_and_deviation_1_without_the_masked() -> None:
    made = standardized(logits(3, 6).index_fill(1, torch.tensor([1]), -torch.inf))
    assert made[:, 1].isneginf().all()
    kept = made[:, [0, 2, 3, 4, 5]]
    torch.testing.assert_close(kept.mean(1), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(kept.std(1), torch.ones(3, dtype=torch.float64))


def test_standardised_kd_does_not_see_the_scale_of_logits() -> None:
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    expected = kd(student, teacher, standardize=True)
    torch.testing.assert_close(kd(3 * student + 2, 7 * teacher - 1, standardize=True), expected, rtol=1e-5, atol=0)


def test_ttm_is_kd_with_a_temperature_of_the_teacher_alone() -> None:
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    torch.testing.assert_close(ttm(student, teacher, power=0.25), kd(student, teacher / 4, temperature=1.0))


@pytest.mark.parametrize(("alpha", "beta", "other"), [(1.0, 0.0, kd), (0.0, 1.0, reverse_kl)])
def test_the_ends_of_the_alpha_beta_divergence(alpha: float, beta: float, other: Any) -> None:
    student, teacher = logits(4, 5), logits(4, 5, seed=1)
    made = LOSSES.get("ab_divergence")(student, teacher, alpha=alpha, beta=beta)
    torch.testing.assert_close(made, other(student, teacher, temperature=1.0))


MINIMA = {
    "dkd": {}, "rld": {}, "ttm": {"power": 1.0}, "wttm": {"power": 1.0}, "ab_divergence": {}, "skewed_kl": {},
    "skewed_reverse_kl": {}, "mlkd_instance": {}, "mlkd_batch": {}, "mlkd_class": {}, "dist_channel": {},
    "dist_spatial": {}, "sdd_kd": {}, "sdd_dkd": {},
}  # fmt: skip
SHAPES = {"dist_channel": (4, 3, 2, 2), "dist_spatial": (4, 3, 2, 2), "sdd_kd": (4, 3, 5), "sdd_dkd": (4, 3, 5)}


@pytest.mark.parametrize("name", MINIMA)
def test_a_student_that_is_its_teacher_is_at_the_minimum(name: str) -> None:
    """RLD's confidence goes to the label, which is the teacher's class here."""
    teacher = logits(*SHAPES.get(name, (4, 5)))
    student = teacher.clone().requires_grad_()
    target = teacher.argmax(1) if teacher.ndim == 2 else torch.zeros(4).long()
    takes = {"target": target} if "target" in loss_signature(LOSSES.get(name)).wires else {}
    loss = LOSSES.get(name)(student, teacher, **takes, **MINIMA[name])
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)
    for seed in range(3):
        other = teacher + 0.1 * logits(*teacher.shape, seed=7 + seed)
        assert LOSSES.get(name)(other, teacher, **takes, **MINIMA[name]) > loss


def test_dist_plus_rises_as_features_become_unlike_the_teachers() -> None:
    teacher = logits(4, 3, 2, 2)
    for relation in (dist_channel, dist_spatial):
        values = [relation(a * teacher + (1 - a) * logits(4, 3, 2, 2, seed=1), teacher) for a in (1.0, 0.5, 0.0)]
        assert values == sorted(values)
        torch.testing.assert_close(values[0], torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-7)


def test_what_hyperparameters_are_refused() -> None:
    for wrong in ([], [2.0, 0.0]):
        with pytest.raises(KDError, match="temperatures must be numbers above 0"):
            mlkd_instance(logits(2, 3), logits(2, 3), temperatures=wrong)
    with pytest.raises(KDError, match=r"skew must be in \(0, 1\)"):
        LOSSES.get("skewed_kl")(logits(2, 3), logits(2, 3), skew=1.0)
    with pytest.raises(KDError, match=r"score \(3, 1\) does not fit student \(2, 4\)"):
        LOSSES.get("ctkd")(logits(2, 4), logits(2, 4), logits(3, 1))


def test_nkd_of_the_teacher_itself_is_an_entropy() -> None:
    rows = logits(1, 3)
    p = rows.softmax(1)[0]
    others = p[1:] / p[1:].sum()
    expected = -p[0] * p[0].log() - 1.5 * (others * others.log()).sum()
    torch.testing.assert_close(nkd(rows, rows, torch.tensor([0])), expected)


def test_the_virtual_teacher_is_nearly_uniform_at_a_high_temperature() -> None:
    uniform = tf_kd(torch.zeros(2, 10), torch.tensor([0, 3]))
    assert 0 < uniform < 1e-4
    assert tf_kd(torch.zeros(2, 10), torch.tensor([0, 3]), temperature=0.1) > math.log(2) / 10
