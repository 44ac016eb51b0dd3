"""Losses on several models: which weights they give, what they refuse, and a small programme's exact minimum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import (
    LOSSES,
    adaptive_ensemble_kd,
    confidence_weighted_kd,
    confidence_weighted_mse,
    ensemble_kd,
    entropy_weighted_kd,
    kd,
    mutual,
)
from kd_core.losses.quadratic import capped_simplex_minimum

WEIGHTED = ["ensemble_kd", "entropy_weighted_kd", "confidence_weighted_kd", "adaptive_ensemble_kd"]
LABELS = torch.tensor([0, 3, 1, -100])


def logits(seed: int, *shape: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or (4, 5)), generator=random, dtype=torch.float64).requires_grad_()


def gradient(loss: Tensor, *tensors: Tensor) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, tensors)])


def call(name: str, student: Any, teacher: Any) -> Tensor:
    more = {"target": LABELS} if name == "confidence_weighted_kd" else {}
    made: Tensor = LOSSES.get(name)(student, teacher, **more)
    return made


def test_two_peers_are_the_two_terms_of_mutual_learning() -> None:
    a, b = logits(0), logits(1)
    peers = kd(a, b.detach(), temperature=1.0) + kd(b, a.detach(), temperature=1.0)
    loss = mutual([a, b], [a.detach(), b.detach()])
    torch.testing.assert_close(loss, peers, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient(loss, a, b), gradient(peers, a, b), atol=1e-6, rtol=0)


def test_the_mean_over_the_other_peers_is_their_sum_over_their_number() -> None:
    peers = [logits(seed) for seed in range(4)]
    torch.testing.assert_close(mutual(peers, peers) * 3, mutual(peers, peers, others="sum"))


def test_the_order_of_peers_and_maps_of_pixels_do_not_matter() -> None:
    peers = [logits(seed, 3, 5, 2, 2) for seed in range(3)]
    rows = [peer.movedim(1, -1).reshape(-1, 5) for peer in peers]
    torch.testing.assert_close(mutual(peers[::-1], peers[::-1]), mutual(rows, rows))


def test_the_mean_of_teachers_has_the_gradient_of_their_mean_output() -> None:
    student, teachers = logits(0), [logits(1).detach(), logits(2).detach()]
    mean = torch.stack([(teacher / 4).softmax(1) for teacher in teachers]).mean(0)
    wanted = gradient(kd(student, mean.log() * 4), student)
    torch.testing.assert_close(gradient(ensemble_kd(student, teachers), student), wanted)


@pytest.mark.parametrize("name", ["ensemble_kd", "adaptive_ensemble_kd"])
def test_one_teacher_is_kd(name: str) -> None:
    student, teacher = logits(0), logits(1)
    torch.testing.assert_close(call(name, student, teacher), kd(student, teacher))


@pytest.mark.parametrize("name", ["entropy_weighted_kd", "confidence_weighted_kd"])
def test_teachers_that_are_equal_count_alike(name: str) -> None:
    student, teacher = logits(0), logits(1)
    wanted = kd(student, teacher) * (1 if name == "confidence_weighted_kd" else 2) / 3
    torch.testing.assert_close(call(name, student, [teacher] * 3), wanted)


def test_a_teacher_that_is_sure_counts_most() -> None:
    student, sure, unsure = logits(0), torch.eye(4, 5).double() * 20, torch.zeros(4, 5).double()
    near_sure = kd(student, sure) / 2
    torch.testing.assert_close(entropy_weighted_kd(student, [sure, unsure]), near_sure, rtol=1e-3, atol=0)


def test_teachers_that_are_all_sure_count_alike() -> None:
    student, teachers = logits(0), [torch.eye(4, 5).double() * 1e4, torch.eye(4, 5).flip(1).double() * 1e4]
    wanted = sum(kd(student, teacher, temperature=1.0) for teacher in teachers) / 4
    torch.testing.assert_close(entropy_weighted_kd(student, teachers, temperature=1.0), wanted)


def test_a_sample_without_a_label_trusts_all_teachers_alike() -> None:
    student, teachers = logits(0), [logits(1), logits(2), logits(3)]
    without = confidence_weighted_kd(student, teachers, torch.full((4,), -100))
    torch.testing.assert_close(without, ensemble_kd(student, teachers) / 3)


@pytest.mark.parametrize("name", [*WEIGHTED, "mutual"])
def test_a_class_that_all_models_mask_leaves_all_finite(name: str) -> None:
    column = torch.arange(5) == 2
    tensors = [logits(seed).detach().masked_fill(column, -torch.inf).float().requires_grad_() for seed in range(4)]
    inputs = (tensors, tensors) if name == "mutual" else (tensors[0], tensors[1:])
    found = torch.autograd.grad(call(name, *inputs), tensors[0])[0]
    assert found.isfinite().all()
    assert not found[:, 2].any()


@pytest.mark.parametrize("name", WEIGHTED)
def test_one_class_and_shapes_that_differ_are_refused(name: str) -> None:
    with pytest.raises(KDError, match="one class"):
        call(name, torch.zeros(4, 1), [torch.zeros(4, 1)] * 2)
    with pytest.raises(KDError, match=r"teacher/1 \(4, 6\)"):
        call(name, torch.zeros(4, 5), [torch.zeros(4, 5), torch.zeros(4, 6)])


@pytest.mark.parametrize("name", ["entropy_weighted_kd", "confidence_weighted_kd"])
def test_one_teacher_cannot_be_weighted(name: str) -> None:
    with pytest.raises(KDError, match="2 teachers or more, not 1"):
        call(name, logits(0), [logits(1)])


def test_mutual_takes_the_same_peers_twice() -> None:
    for student, teacher in ((logits(0), logits(0)), ([logits(0)] * 2, [logits(0)] * 3)):
        with pytest.raises(KDError, match="the same two or more peers twice"):
            mutual(student, teacher)  # type: ignore[arg-type]
    with pytest.raises(KDError, match="one class"):
        mutual([torch.zeros(4, 1)] * 2, [torch.zeros(4, 1)] * 2)


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(KDError, match=r"target \(3,\) does not fit"):
        confidence_weighted_kd(logits(0), [logits(1)] * 2, torch.zeros(3).long())
    with pytest.raises(KDError, match="a label that is not below 5"):
        confidence_weighted_kd(logits(0), [logits(1)] * 2, torch.full((4,), 7))
    with pytest.raises(KDError, match="student has 1 features, teacher 2"):
        confidence_weighted_mse([logits(0)], [logits(0)] * 2, [logits(0)] * 2, LABELS)


def test_the_adaptive_step_is_the_shortest_that_the_tolerance_allows() -> None:
    student, teachers = logits(0), [logits(seed).detach() for seed in range(1, 5)]
    means = torch.stack([student.softmax(1) - teacher.softmax(1) for teacher in teachers]).mean(1).detach()
    found = gradient(adaptive_ensemble_kd(student, teachers, temperature=1.0, tolerance=0.5), student).view(4, 5).sum(0)
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        weights = torch.rand(4, generator=random, dtype=torch.float64)
        weights = weights / weights.sum()
        if weights.max() <= 0.5:
            assert found.norm() <= (weights @ means).norm() + 1e-9


def test_maps_and_too_many_teachers_are_refused_by_the_adaptive_loss() -> None:
    with pytest.raises(KDError, match="must be \\(B, C\\)"):
        adaptive_ensemble_kd(torch.zeros(2, 5, 3), [torch.zeros(2, 5, 3)] * 2)
    with pytest.raises(KDError, match="at most 8 teachers, not 9"):
        adaptive_ensemble_kd(torch.zeros(2, 5), [torch.zeros(2, 5)] * 9)


@pytest.mark.parametrize("cap", [0.1, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("number", [1, 2, 4])
def test_the_minimum_on_a_capped_simplex(number: int, cap: float) -> None:
    vectors = logits(number, number, 6).detach()
    point = capped_simplex_minimum(vectors @ vectors.T, cap)
    highest = min(max(cap, 1 / number), 1.0)
    assert point.sum().item() == pytest.approx(1)
    assert point.min() >= 0
    assert point.max() <= highest + 1e-9
    slope = vectors @ (point @ vectors)  # by Karush, Kuhn and Tucker: no pair of weights can be moved to gain
    for i in range(number):
        for j in range(number):
            if point[i] > 1e-9 and point[j] < highest - 1e-9:
                assert slope[i] <= slope[j] + 1e-6


def test_equal_vectors_and_none_have_equal_weights() -> None:
    for matrix in (torch.zeros(4, 4), torch.ones(4, 4)):
        torch.testing.assert_close(
            capped_simplex_minimum(matrix, 0.6), torch.full((4,), 0.25).double(), atol=1e-3, rtol=0
        )
