"""Views of a batch, and the losses on them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from kd_core.data.batch import SHARED, Batch
from kd_core.data.views import check, identity, views_of
from kd_core.errors import KDError
from kd_core.losses import hierarchical_context, kd, self_supervised_kd, transformed_kd, view_contrast
from kd_core.registry import Registry


def batch() -> Batch:
    images = torch.arange(12.0).reshape(2, 1, 2, 3)
    return Batch(
        {SHARED: images, "teacher": {"x": -images}}, torch.tensor([3, 1]), torch.tensor([7, 5]), {"w": torch.ones(2)}
    )


def test_rows_of_a_view_follow_those_of_another() -> None:
    given = batch()
    doubled = {SHARED: 2 * given.inputs[SHARED], "teacher": {"x": 2 * given.inputs["teacher"]["x"]}}
    made = views_of(given, [given.inputs, doubled])
    assert torch.equal(made.inputs[SHARED], torch.cat([given.inputs[SHARED], doubled[SHARED]]))
    assert torch.equal(made.inputs["teacher"]["x"], -made.inputs[SHARED])
    assert made.target.tolist() == [3, 1, -100, -100]
    assert made.index.tolist() == [7, 5, 7, 5]
    assert made.extra["view"].tolist() == [0, 0, 1, 1]
    assert made.extra["original"].tolist() == [True, True, False, False]
    assert made.extra["w"].shape == (4,)
    assert identity(given) is given


def test_soft_targets_have_no_views() -> None:
    given = batch()
    soft = Batch(given.inputs, torch.rand(2, 4), given.index)
    with pytest.raises(KDError, match="needs class labels"):
        views_of(soft, [soft.inputs, soft.inputs])


def test_what_may_be_registered() -> None:
    registry: Registry[object] = Registry("view", "kd.test_views", check)  # type: ignore[arg-type]
    with pytest.raises(KDError, match=r"must take \(batch, \*, \.\.\.\), not \(images\)"):
        registry("wrong")(lambda images: images)


INDEX, VIEW = torch.tensor([4, 9, 2] * 3), torch.arange(3).repeat_interleave(3)
TARGET = torch.tensor([1, 0, 3, *[-100] * 6])


def rows(width: int, seed: int) -> Tensor:
    return torch.randn(9, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_order_of_rows_does_not_matter() -> None:
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    student, teacher = rows(5, 0), rows(5, 1)
    for loss, given in (
        (view_contrast, (student,)),
        (self_supervised_kd, (student, teacher)),
        (partial(transformed_kd, keep=0.5), (student, teacher, TARGET)),
        (transformed_kd, (student, teacher, TARGET)),
    ):
        here = loss(*given, INDEX, VIEW)  # type: ignore[operator]
        there = loss(*(each[order] for each in given), INDEX[order], VIEW[order])  # type: ignore[operator]
        torch.testing.assert_close(here, there)


def test_transformed_kd_without_labels_is_kd_on_the_transformed() -> None:
    student, teacher = rows(5, 0), rows(5, 1)
    value = transformed_kd(student, teacher, torch.full((9,), -100), INDEX, VIEW, keep=0.0)
    torch.testing.assert_close(value, kd(student[3:], teacher[3:]))
    torch.testing.assert_close(value, kd(student, teacher, VIEW != 0))


def test_keep_is_a_share() -> None:
    with pytest.raises(KDError, match=r"keep must be in \[0, 1\], not 2\.0"):
        transformed_kd(rows(5, 0), rows(5, 1), TARGET, INDEX, VIEW, keep=2.0)


def test_kd_with_a_mask_is_kd_of_the_rest() -> None:
    student, teacher = rows(5, 0).reshape(3, 5, 3), rows(5, 1).reshape(3, 5, 3)
    mask = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    chosen = (each.movedim(1, -1)[mask.bool()] for each in (student, teacher))
    torch.testing.assert_close(kd(student, teacher, mask), kd(*chosen))
    assert kd(student, teacher, torch.zeros(3, 3)) == 0
    with pytest.raises(KDError, match=r"mask \(3, 5\) does not fit"):
        kd(student, teacher, torch.ones(3, 5))


def test_levels_of_a_review_add_up() -> None:
    students, teachers = (
        [rows(8, n).reshape(3, 3, 2, 4) for n in (0, 1)],
        [rows(8, n).reshape(3, 3, 2, 4) for n in (2, 3)],
    )
    each = [hierarchical_context(*pair) for pair in zip(students, teachers, strict=True)]
    torch.testing.assert_close(hierarchical_context(students, teachers), sum(each))
    with pytest.raises(KDError, match="student has 2 maps and teacher 1"):
        hierarchical_context(students, teachers[:1])
