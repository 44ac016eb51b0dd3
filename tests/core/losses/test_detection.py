"""Losses of detectors where there is little to compare: no box, a box smaller than a cell, constant maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import crosskd_boxes, crosskd_classes, crosskd_distances, fgd, ld, pkd

NONE = [0.0, 0.0, -1.0, -1.0]


def maps(*shape: int) -> list[Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=random).requires_grad_() for _ in range(2)]


def only(boxes: list[list[list[float]]], **weights: float) -> Tensor:
    """FGD with the given weights alone, on maps of which all differences and attentions are 1."""
    student, teacher = torch.ones(len(boxes), 2, 4, 8), torch.zeros(len(boxes), 2, 4, 8)
    return fgd(student, teacher, torch.tensor(boxes), **{"alpha": 0.0, "beta": 0.0, "gamma": 0.0, **weights})


def test_a_box_counts_its_cells_and_the_next_ones() -> None:
    half = [0.0, 0.0, 0.5, 0.5]  # of 8 x 4 cells those up to column 4 and row 2
    assert only([[half]], alpha=1.0).item() == pytest.approx(2.0)  # 15 cells of 1 / 15, two channels
    assert only([[half]], beta=1.0).item() == pytest.approx(2.0)  # 17 cells of 1 / 17
    assert only([[half, half]], alpha=1.0).item() == pytest.approx(2.0)


def test_a_cell_in_two_boxes_counts_as_one_of_the_smaller() -> None:
    large, small = [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.125, 0.25]
    both = only([[large, small]], alpha=1.0).item()
    assert both == pytest.approx(2 * (4 / 4 + 11 / 15))
    assert both == only([[small, large]], alpha=1.0).item()


def test_a_box_smaller_than_a_cell_counts() -> None:
    assert only([[[0.51, 0.51, 0.511, 0.511]]], alpha=1.0).item() == pytest.approx(2.0)


def test_an_image_without_a_box_is_background() -> None:
    assert only([[NONE]], alpha=1.0).item() == 0
    assert only([[NONE]], beta=1.0).item() == pytest.approx(2.0)
    student, teacher = maps(2, 3, 4, 4)
    none = fgd(student, teacher, torch.zeros(2, 0, 4))
    assert torch.equal(none, fgd(student, teacher, torch.tensor([[NONE], [NONE]])))


def test_a_box_over_all_leaves_no_background() -> None:
    assert only([[[0.0, 0.0, 1.0, 1.0]]], beta=1.0).item() == 0


@pytest.mark.parametrize("box", [[-3.0, -3.0, 4.0, 4.0], [2.0, 2.0, 3.0, 3.0], [float("nan")] * 4])
def test_boxes_beyond_the_map_are_finite(box: list[float]) -> None:
    student, teacher = maps(1, 3, 4, 4)
    loss = fgd(student, teacher, torch.tensor([[box]]))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_large_features_are_finite() -> None:
    student, teacher = (1e4 * tensor.detach().bfloat16() for tensor in maps(2, 3, 4, 4))
    assert fgd(student, teacher, torch.tensor([[NONE], [NONE]])).isfinite()
    assert pkd(student, teacher).isfinite()


@pytest.mark.parametrize("boxes", [(2, 4), (3, 1, 4), (2, 1, 5)])
def test_boxes_that_do_not_fit_are_refused(boxes: tuple[int, ...]) -> None:
    with pytest.raises(KDError, match=r"boxes .* does not fit: it is \(B, M, 4\) with the B of student \(2, 3, 4, 4\)"):
        fgd(*maps(2, 3, 4, 4), torch.zeros(boxes))


def test_what_are_no_maps_is_refused() -> None:
    with pytest.raises(KDError, match=r"fgd compares feature maps \(B, C, H, W\), and student is \(2, 3\)"):
        fgd(*maps(2, 3), torch.zeros(2, 1, 4))
    with pytest.raises(KDError, match=r"must be \(B, C, H, W\) with the same B and C"):
        pkd(*maps(2, 3))


def test_pkd_is_one_minus_the_correlation_of_each_channel() -> None:
    student, teacher = maps(2, 3, 4, 4)
    rows = [tensor.detach().transpose(0, 1).flatten(1) for tensor in (student, teacher)]
    correlations = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*rows, strict=True)]
    expected = (1 - torch.stack(correlations).mean()) * 31 / 32  # of 32 positions, one degree of freedom
    torch.testing.assert_close(pkd(student, teacher), expected, rtol=1e-5, atol=1e-6)


def test_pkd_of_a_constant_channel_has_a_finite_gradient() -> None:
    student, teacher = maps(2, 3, 4, 4)
    constant = (student * torch.tensor([1.0, 0.0, 1.0])[:, None, None]).detach().requires_grad_()
    pkd(constant, teacher).backward()
    assert constant.grad is not None
    assert constant.grad.isfinite().all()


def test_pkd_of_one_position_is_refused() -> None:
    with pytest.raises(KDError, match=r"teacher \(1, 3, 1, 1\) has one"):
        pkd(*maps(1, 3, 1, 1))


BOX = torch.tensor([[[0.0, 0.0, 2.0, 2.0]]])
ONE = torch.ones(1, 1)


@pytest.mark.parametrize(
    ("other", "overlap"),
    [
        ([0.0, 0.0, 2.0, 2.0], 1.0),
        ([0.0, 0.0, 2.0, 1.0], 0.5),
        ([4.0, 0.0, 6.0, 2.0], -1 / 3),  # 4 of 12 squared pixels around both are in neither
        ([1.0, 1.0, 1.0, 1.0], 0.0),
    ],
)
def test_boxes_are_compared_by_their_generalised_iou(other: list[float], overlap: float) -> None:
    loss = crosskd_boxes(BOX, torch.tensor([[other]]), torch.zeros(1, 1, 3), ONE)
    assert loss.item() == pytest.approx(0.5 * (1 - overlap), abs=1e-5)


def test_boxes_turned_inside_out_are_finite() -> None:
    turned = BOX.flip(-1).requires_grad_()
    for student, teacher in ((turned, BOX), (BOX, turned), (turned, turned)):
        loss = crosskd_boxes(student, teacher, torch.zeros(1, 1, 3), ONE)
        loss.backward()
        assert 0 <= loss.item() <= 1
    assert turned.grad is not None
    assert turned.grad.isfinite().all()


def test_crosskd_divides_by_the_positive_anchors_and_at_least_one_an_image() -> None:
    student, teacher = (tensor.detach() for tensor in maps(2, 5, 3))
    none = torch.zeros(2, 5)
    some = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0]])
    without = crosskd_classes(student, teacher, none)
    torch.testing.assert_close(crosskd_classes(student, teacher, some), without * 2 / 4)
    torch.testing.assert_close(crosskd_classes(student, teacher, some.bool()), without * 2 / 4)
    assert crosskd_classes(student, teacher, some, none) == 0
    halves = torch.cat((some.float(), none)), torch.cat((torch.ones(2, 5), none))
    twice = torch.cat((student, student)), torch.cat((teacher, teacher))
    torch.testing.assert_close(crosskd_classes(*twice, *halves), without * 2 / 6)


def test_equal_classes_cost_nothing() -> None:
    student = maps(2, 5, 3)[0]
    loss = crosskd_classes(student, student.detach(), torch.ones(2, 5))
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()


def test_distributions_weigh_by_the_teachers_confidence() -> None:
    student, teacher = (tensor.detach() for tensor in maps(1, 2, 4, 6))
    sure = torch.tensor([[[20.0, -20.0], [-60.0, -60.0]]])
    first = crosskd_distances(student, teacher, sure)
    torch.testing.assert_close(first, crosskd_distances(student[:, :1], teacher[:, :1], sure[:, :1]))
    torch.testing.assert_close(
        first * 4 / 24, ld(student, teacher, torch.tensor([[1.0, 0.0]]), temperature=1.0) * 4 / 4
    )
    assert crosskd_distances(student, teacher, sure, torch.zeros(1, 2)) == 0
    assert ld(student, teacher, torch.zeros(1, 2)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crosskd_classes(*maps(2, 5, 3), torch.ones(2, 4)), r"positive \(2, 4\) does not fit"),
        (lambda: crosskd_classes(*maps(2, 5, 3), torch.ones(2, 5), torch.ones(2, 4)), r"mask \(2, 4\) does not fit"),
        (lambda: crosskd_classes(*maps(2, 5), torch.ones(2, 5)), "have no dimension 2"),
        (
            lambda: crosskd_boxes(*maps(2, 5, 4), torch.ones(2, 4, 3), torch.ones(2, 5)),
            r"logits \(2, 4, 3\) does not fit",
        ),
        (lambda: crosskd_boxes(*maps(2, 5, 3), torch.ones(2, 5, 3), torch.ones(2, 5)), r"boxes are \(B, A, 4\)"),
        (lambda: ld(*maps(2, 5, 4, 6), torch.ones(2, 4)), r"importance \(2, 4\) does not fit"),
        (lambda: ld(*maps(2, 5, 3, 6), torch.ones(2, 5)), r"must be \(B, A, 4, N\) with more than one distance"),
        (lambda: ld(*maps(2, 5, 4, 1), torch.ones(2, 5)), "more than one distance"),
        (lambda: crosskd_distances(*maps(2, 5, 4, 6), torch.ones(2, 4, 3)), r"logits \(2, 4, 3\) does not fit"),
        (lambda: crosskd_distances(*maps(2, 5, 4, 6), torch.ones(2, 5, 3), torch.ones(2, 4)), r"mask \(2, 4\)"),
    ],
)
def test_anchors_that_do_not_fit_are_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(KDError, match=message):
        call()
