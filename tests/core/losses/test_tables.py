"""The losses of torchdistill's and RepDistiller's tables where their reference code is silent: at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_core.losses import (
    LOSSES,
    VID,
    activation_boundary,
    fsp,
    ickd,
    ickd_imagenet,
    pad_l2,
    srd,
    streamlined_direction,
)


def maps(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=random) for shape in shapes]


def test_neurons_beyond_the_margin_on_the_teachers_side_count_nothing() -> None:
    teacher = torch.tensor([[0.1, -3.0, 0.0]])
    assert activation_boundary(torch.tensor([[1.0, -1.0, -2.0]]), teacher) == 0
    assert activation_boundary(torch.tensor([[0.0, 0.0, 0.0]]), teacher) == 3


def test_of_a_list_of_layers_the_last_counts_most() -> None:
    students, teachers = maps((2, 3), (2, 4), (2, 5)), maps((2, 3), (2, 4), (2, 5), seed=1)
    layers = [activation_boundary(*pair) for pair in zip(students, teachers, strict=True)]
    halves = activation_boundary(students, teachers)
    torch.testing.assert_close(halves, layers[0] / 4 + layers[1] / 2 + layers[2])
    torch.testing.assert_close(activation_boundary(students, teachers, decay=1.0), sum(layers))
    with pytest.raises(KDError, match="student has 3 layers and teacher 2"):
        activation_boundary(students, teachers[:2])


@pytest.mark.parametrize("count", [0, 1])
def test_a_flow_needs_two_maps(count: int) -> None:
    levels = maps((2, 3, 4, 4))
    given = levels if count else levels[0]
    with pytest.raises(KDError, match="lists of at least two feature maps"):
        fsp(given, given)  # type: ignore[arg-type]


def test_a_flow_names_the_maps_whose_channels_differ() -> None:
    with pytest.raises(KDError, match=r"student/1 \(2, 5, 2, 2\) and teacher/1 \(2, 4, 2, 2\)"):
        fsp(maps((2, 3, 4, 4), (2, 5, 2, 2)), maps((2, 3, 4, 4), (2, 4, 2, 2)))


def test_channel_correlations_do_not_depend_on_the_size_of_maps() -> None:
    (features,) = maps((3, 4, 2, 2))
    assert ickd(features, features.repeat(1, 1, 2, 2)).abs() < 1e-6
    student, teacher = maps((3, 4, 2, 2), (3, 4, 5, 3))
    torch.testing.assert_close(ickd_imagenet(student, teacher), ickd(student, teacher) / 3)
    torch.testing.assert_close(ickd(1e6 * student, 1e6 * teacher), ickd(student, teacher))
    with pytest.raises(KDError, match=r"must be \(B, C, H, W\) with the same B and C"):
        ickd(student, teacher[:, :3])


@pytest.mark.parametrize("size", [2, 7])
def test_channel_correlations_are_those_of_the_matrices_for_few_positions_and_for_many(size: int) -> None:
    """Zeros are channels of their own in each and one in both; their rows have no gradient, which would be 1e12."""
    given = [tensor.double() for tensor in maps((3, 16, size, 1), (3, 16, 2, 1))]
    for tensor, channel in zip(given, (4, 5), strict=True):
        tensor[:, channel] = 0
        tensor[:, 6] = 0
        tensor.requires_grad_()
    rows = [tensor.flatten(2) for tensor in given]
    first, second = (torch.nn.functional.normalize(row @ row.mT, dim=2) for row in rows)
    expected = torch.autograd.grad(loss := (first - second).square().sum() / 48, given)
    torch.testing.assert_close(ickd(*given), loss)
    for ours, theirs, channel in zip(torch.autograd.grad(ickd(*given), given), expected, (4, 5), strict=True):
        zeros = torch.isin(torch.arange(16), torch.tensor([channel, 6]))
        torch.testing.assert_close(ours[:, ~zeros], theirs[:, ~zeros])
        assert ours[:, zeros].abs().max() < 1


def test_a_variance_beyond_float32_leaves_the_penalty() -> None:
    student, teacher = torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3)
    variance = torch.full((2, 3), 200.0, requires_grad=True)
    loss = pad_l2(student, teacher, variance)
    loss.backward()
    assert loss == 200
    assert variance.grad is not None
    assert variance.grad.isfinite().all()


def test_equal_features_have_the_least_distance_and_no_gradient() -> None:
    student, teacher = maps((4, 3), (4, 3))
    student.requires_grad_()
    loss = srd(student, student.detach().clone())
    assert loss < srd(student, teacher) - 50
    assert loss.isfinite()
    (gradient,) = torch.autograd.grad(loss, student)
    assert not gradient.any()


@pytest.mark.parametrize("name", ["cc", "srd", "streamlined_direction"])
def test_one_sample_has_no_relation(name: str) -> None:
    student, teacher = maps((1, 5), (1, 5))
    assert LOSSES.get(name)(student, teacher) == 0


def test_a_class_that_both_mask_does_not_turn_the_logits() -> None:
    student, teacher = maps((4, 5), (4, 5))
    column = torch.arange(5) == 2
    zeros = streamlined_direction(student.masked_fill(column, 0.0), teacher.masked_fill(column, 0.0))
    masked = streamlined_direction(student.masked_fill(column, -math.inf), teacher.masked_fill(column, -math.inf))
    assert torch.equal(masked, zeros)


def test_the_direction_of_torchdistill_is_that_of_another_tikhonov() -> None:
    """Without the division by the number of classes, whatever the logits' lengths."""
    student, teacher = maps((6, 4), (6, 4))
    rows = [torch.nn.functional.normalize(logits) for logits in (student, teacher)]
    difference = rows[0] @ rows[0].T - rows[1] @ rows[1].T
    inverse = torch.linalg.inv(torch.cov(difference.T) + 0.1 * torch.eye(6))
    expected = torch.einsum("bi,ij,bj->b", difference, inverse, difference).sqrt().mean()
    torch.testing.assert_close(streamlined_direction(3 * student, teacher, tikhonov=0.1 / 16), expected)


def test_vid_is_built_for_the_maps_it_compares() -> None:
    students, teachers = maps((2, 3, 4, 4), (2, 5, 2, 2)), maps((2, 4, 4, 4), (2, 6, 4, 4))
    loss = VID.from_inputs({"student": students, "teacher": teachers}, width=7)
    widths = [[layer.weight.shape[:2] for layer in level.regressor[::2]] for level in loss.layers]
    assert widths == [[(7, 3), (7, 7), (4, 7)], [(7, 5), (7, 7), (6, 7)]]
    assert loss(students, teachers).isfinite()
    with pytest.raises(KDError, match="student has 1 layers and teacher 2"):
        loss(students[:1], teachers)


def test_fsp_adds_up_the_lengths_of_the_columns_where_asked() -> None:
    """torchdistill's FSPLoss, on maps that need pooling; the gradient of equal matrices is 0."""
    torch.manual_seed(0)
    student, teacher = ([torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)] for _ in range(2))

    def matrix(maps: list[Tensor]) -> Tensor:
        first = torch.nn.functional.adaptive_max_pool2d(maps[0], 4).flatten(2)
        return first @ maps[1].flatten(2).mT / 16

    expected = (matrix(student) - matrix(teacher)).norm(dim=1).sum() / 2
    assert fsp(student, teacher, pooling="max", distance="norm") == pytest.approx(expected.item(), rel=1e-6)
    same = [maps.requires_grad_() for maps in student]
    fsp(same, [maps.detach() for maps in same], distance="norm").backward()
    assert all(torch.isfinite(maps.grad).all() for maps in same if maps.grad is not None)
