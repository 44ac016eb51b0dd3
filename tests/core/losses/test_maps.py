"""Losses on feature maps of the CIFAR-100 tables: what they refuse, and what stays finite."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import SemCKD, kdsvd, nst, partial_l2, wasserstein_features, wasserstein_logits


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_channels_that_are_never_active_leave_gradients_finite() -> None:
    """Two singular values of 0, where the gradient of torch's decomposition is NaN."""
    dead = (torch.arange(6) < 4).float()[:, None, None]
    students = [(randn(2, 6, 4, 4, seed=seed).relu() * dead).requires_grad_() for seed in (0, 1)]
    teachers = [randn(2, 6, 4, 4, seed=seed).relu() * dead for seed in (2, 3)]
    loss = kdsvd(students, teachers)
    assert loss.isfinite()
    for gradient in torch.autograd.grad(loss, students):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_kdsvd_takes_two_maps_with_the_channels_of_their_counterparts() -> None:
    maps = [randn(2, 3, 4, 4), randn(2, 5, 2, 2)]
    assert kdsvd(maps, [each.clone() for each in maps]).item() == pytest.approx(0.0, abs=1e-10)
    with pytest.raises(KDError, match="it takes at least two"):
        kdsvd(maps[:1], maps[:1])
    with pytest.raises(KDError, match=r"student/1 \(2, 5, 2, 2\) and teacher/1 \(2, 4, 2, 2\)"):
        kdsvd(maps, [maps[0], randn(2, 4, 2, 2)])


def test_nst_is_zero_for_the_same_channels_in_another_order() -> None:
    features = randn(2, 4, 3, 3)
    assert nst(features, features.flip(1)).item() == pytest.approx(0.0, abs=1e-6)
    assert nst(features, randn(2, 4, 3, 3, seed=1)) > 0.01


def test_neurons_below_the_teacher_that_stay_inactive_do_not_count() -> None:
    teacher = torch.tensor([[-1.0, -1.0, 2.0, 2.0]])
    student = torch.tensor([[-3.0, 0.5, 0.0, 3.0]])
    assert partial_l2(student, teacher).item() == pytest.approx(1.5**2 + 2.0**2 + 1.0**2)
    assert partial_l2([student, student], [teacher, teacher], decay=0.25).item() == pytest.approx(1.25 * 7.25)


def test_transport_between_two_classes_is_refused_and_rows_without_a_label_do_not_count() -> None:
    with pytest.raises(KDError, match="2 classes"):
        wasserstein_logits(randn(3, 2), randn(3, 2), torch.zeros(3).long(), randn(2, 4))
    student, teacher, prototypes = randn(4, 5), randn(4, 5, seed=1), randn(5, 3)
    target = torch.tensor([0, -100, 3, -100])
    some = wasserstein_logits(student, teacher, target, prototypes)
    torch.testing.assert_close(some, wasserstein_logits(student[::2], teacher[::2], target[::2], prototypes))
    assert wasserstein_logits(student, teacher, torch.full((4,), -100), prototypes) == 0
    with pytest.raises(KDError, match=r"prototypes \(4, 3\)"):
        wasserstein_logits(student, teacher, target, prototypes[:4])


def test_a_class_that_both_models_mask_leaves_transport_finite() -> None:
    masked = torch.arange(5) == 2
    student = randn(3, 5).masked_fill(masked, -torch.inf).requires_grad_()
    teacher = randn(3, 5, seed=1).masked_fill(masked, -torch.inf)
    loss = wasserstein_logits(student, teacher, torch.tensor([0, 1, 2]), randn(5, 3))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


def test_a_cell_of_one_position_has_no_variance() -> None:
    with pytest.raises(KDError, match="no variance in the cells of a 2 x 2 grid"):
        wasserstein_features(randn(2, 3, 2, 2), randn(2, 3, 2, 2), grid=2)


def test_semckd_takes_batches_up_to_its_size() -> None:
    maps = {"student": [randn(4, 3, 4, 4)], "teacher": [randn(4, 2, 2, 2), randn(4, 5, 4, 4)]}
    loss = SemCKD.from_inputs(maps, batch_size=4)
    assert loss(**maps).isfinite()
    assert loss([maps["student"][0][:2]], [each[:2] for each in maps["teacher"]]).isfinite()
    with pytest.raises(KDError, match="larger than batch_size 4"):
        loss([randn(5, 3, 4, 4)], [randn(5, 2, 2, 2), randn(5, 5, 4, 4)])
    with pytest.raises(KDError, match="factor must be at most batch_size, 4, not 5"):
        SemCKD.from_inputs(maps, batch_size=4, factor=5)
