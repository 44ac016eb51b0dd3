"""Losses: what each one is by its definition, and what it refuses. See also tests/contracts and tests/golden."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core import losses
from kd_core.errors import KDError
from kd_core.losses import LOSSES
from kd_core.losses.tensors import constant


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    at = at.detach().requires_grad_()
    return torch.autograd.grad(loss(at), at)[0]


# cross_entropy ------------------------------------------------------------------------------------------------------

LABELLED = torch.tensor([0, 3, -100, 1, 2])
MAPS = torch.tensor([[[0, 1], [-100, 3]], [[2, 2], [1, -100]]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 0.0]])
@pytest.mark.parametrize(
    ("student", "target"),
    [
        (randn(5, 4, dtype=torch.float32), LABELLED),
        (randn(5, 4, dtype=torch.float32), LABELLED.int()),
        (randn(2, 4, 2, 2, dtype=torch.float32), MAPS),
        (randn(5, 4, dtype=torch.float32), randn(5, 4, seed=1).softmax(1).float()),
        (randn(2, 4, 2, 2, dtype=torch.float32), randn(2, 4, 2, 2, seed=1).softmax(1).float()),
    ],
)
def test_cross_entropy_is_pytorchs_bit_for_bit(
    student: Tensor, target: Tensor, weights: list[float] | None, smoothing: float
) -> None:
    def pytorch(x: Tensor) -> Tensor:
        labels = target if target.is_floating_point() else target.long()
        return F.cross_entropy(x, labels, weights and torch.tensor(weights), label_smoothing=smoothing)

    def ours(x: Tensor) -> Tensor:
        return losses.cross_entropy(x, target, class_weights=weights, label_smoothing=smoothing)

    assert torch.equal(ours(student), pytorch(student))
    assert torch.equal(gradient(ours, student), gradient(pytorch, student))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("weights", "label"), [(None, -100), ([1.0, 1.0, 0.0], -100), ([1.0, 1.0, 0.0], 2)])
@pytest.mark.parametrize("size", [(), (2, 2)])
def test_cross_entropy_of_nothing_labelled_is_zero_with_a_graph(
    size: tuple[int, ...], weights: list[float] | None, label: int, smoothing: float
) -> None:
    student = randn(3, 3, *size).requires_grad_()
    target = torch.full((3, *size), label)
    loss = losses.cross_entropy(student, target, class_weights=weights, label_smoothing=smoothing)
    assert loss.item() == 0
    loss.backward()
    assert student.grad is not None
    assert not student.grad.any()


def test_cross_entropy_keeps_a_nan_of_the_student() -> None:
    assert losses.cross_entropy(torch.full((2, 3), math.nan), torch.tensor([0, 1])).isnan()


@pytest.mark.parametrize(
    ("student", "target", "weights", "message"),
    [
        ((4, 3), torch.zeros(5).long(), None, r"target \(5,\) does not fit student \(4, 3\)"),
        ((4, 3), torch.zeros(4, 3).long(), None, r"target \(4, 3\) does not fit student \(4, 3\)"),
        ((4,), torch.zeros(4).long(), None, r"target \(4,\) does not fit student \(4,\)"),
        ((2, 5, 3), torch.zeros(2, 5).long(), None, r"target \(2, 5\) does not fit student \(2, 5, 3\)"),
        ((4, 3), torch.zeros(4, 2), None, r"student \(4, 3\) and target \(4, 2\)"),
        ((4, 3), torch.tensor([0, 1, 3, 2]), None, "a label that is not below 3"),
        ((4, 3), torch.tensor([0, 1, 3, 2]), [1.0, 1.0, 1.0], "a label that is not below 3"),
        ((4, 3), torch.zeros(4).long(), [1.0, 1.0], "class_weights has 2 numbers"),
    ],
)
def test_cross_entropy_refuses(
    student: tuple[int, ...], target: Tensor, weights: list[float] | None, message: str
) -> None:
    with pytest.raises(KDError, match=message):
        losses.cross_entropy(randn(*student), target, class_weights=weights)


def test_class_weights_are_copied_to_the_device_once() -> None:
    """To copy them waits for the device; and what is made in inference mode first can be trained on later."""
    with torch.inference_mode():
        first = constant([1.0, 7.0, 2.5], torch.zeros(2))
    assert constant([1.0, 7.0, 2.5], torch.ones(3)) is first
    assert not first.is_inference()
    assert constant([1.0, 7.0, 2.5], torch.ones(3, dtype=torch.float64)).dtype == torch.float64


def test_label_smoothing_is_a_fraction() -> None:
    for smoothing in (-0.1, 1.1, math.nan):
        with pytest.raises(KDError, match=r"label_smoothing must be in \[0, 1\], not"):
            losses.cross_entropy(randn(2, 3), torch.zeros(2).long(), label_smoothing=smoothing)


# softened outputs ---------------------------------------------------------------------------------------------------


def test_kd_by_hand() -> None:
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert losses.kd(student, teacher, temperature=1.0).item() == pytest.approx(by_hand, rel=1e-6)
    assert losses.kd(2 * student, 2 * teacher, temperature=2.0).item() == pytest.approx(4 * by_hand, rel=1e-6)


def test_kd_is_the_usual_line_bit_for_bit() -> None:
    student, teacher = randn(32, 10, dtype=torch.float32), 5 * randn(32, 10, seed=1, dtype=torch.float32)

    def usual(x: Tensor) -> Tensor:
        return F.kl_div(F.log_softmax(x / 4, 1), F.softmax(teacher / 4, 1), reduction="batchmean") * 16

    def ours(x: Tensor) -> Tensor:
        return losses.kd(x, teacher, temperature=4.0)

    assert torch.equal(ours(student), usual(student))
    assert torch.equal(gradient(ours, student), gradient(usual, student))


@pytest.mark.parametrize("loss", [losses.kd, losses.multilabel_kd])
def test_a_trained_teacher_may_be_sure(loss: Callable[..., Tensor]) -> None:
    """Probabilities that are 0 in float32 have a gradient."""
    student, teacher = torch.tensor([[0.0, 300.0, 1.0]]), torch.tensor([[300.0, 0.0, 1.0]])
    assert loss(student, teacher, temperature=1.0).isfinite()
    assert gradient(lambda x: loss(student, x, temperature=1.0), teacher).isfinite().all()
    assert gradient(lambda x: loss(x, teacher, temperature=1.0), student).isfinite().all()


def test_kd_of_high_temperature_is_the_distance_of_centred_logits() -> None:
    """Hinton et al., section 2.1: the limit is half the squared distance of zero-mean logits, over the classes."""
    student, teacher = randn(5, 8), randn(5, 8, seed=1)
    apart = (student - student.mean(1, keepdim=True)) - (teacher - teacher.mean(1, keepdim=True))
    expected = apart.square().mean(1).mean() / 2
    assert losses.kd(student, teacher, temperature=1e4).item() == pytest.approx(expected.item(), rel=1e-3)


def test_kd_averages_over_pixels_and_takes_classes_from_any_dimension() -> None:
    student, teacher = randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1)
    rows = [each.movedim(1, -1).reshape(-1, 3) for each in (student, teacher)]
    expected = losses.kd(*rows)
    torch.testing.assert_close(losses.kd(student, teacher), expected)
    torch.testing.assert_close(losses.kd(student.movedim(1, -1), teacher.movedim(1, -1), dim=-1), expected)


def test_multilabel_kd_is_kd_of_two_classes_for_each_label() -> None:
    student, teacher = randn(4, 6), randn(4, 6, seed=1)
    pairs = [torch.stack([each, torch.zeros_like(each)], dim=-1).reshape(-1, 2) for each in (student, teacher)]
    expected = 6 * losses.kd(*pairs, temperature=3.0)
    torch.testing.assert_close(losses.multilabel_kd(student, teacher, temperature=3.0), expected)


def test_multilabel_kd_takes_any_logit() -> None:
    student = torch.tensor([[-200.0, 200.0, 0.0]], requires_grad=True)
    loss = losses.multilabel_kd(student, torch.tensor([[200.0, 200.0, -200.0]]))
    assert loss.item() == pytest.approx(200 + math.log(2), rel=1e-6)
    loss.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("loss", [losses.kd, losses.multilabel_kd, losses.hint])
def test_a_missing_dimension_is_named(loss: Callable[..., Tensor]) -> None:
    with pytest.raises(KDError, match=r"\(3,\) have no dimension 1"):
        loss(randn(3), randn(3))


def test_dim_is_one_of_the_tensors() -> None:
    for loss in (losses.kd, losses.cosine):
        with pytest.raises(KDError, match=r"\(3, 4\) have no dimension 2"):
            loss(randn(3, 4), randn(3, 4), dim=2)


def test_kd_of_one_class_is_refused() -> None:
    with pytest.raises(KDError, match=r"kd of one class, \(4, 1\)"):
        losses.kd(randn(4, 1), randn(4, 1))


@pytest.mark.parametrize("loss", [losses.kd, losses.multilabel_kd])
def test_temperature_is_above_zero(loss: Callable[..., Tensor]) -> None:
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(KDError, match="temperature must be greater than 0, not"):
            loss(randn(2, 3), randn(2, 3), temperature=temperature)


# features -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "pytorch"),
    [
        (losses.mse, F.mse_loss),
        (losses.l1, F.l1_loss),
        (losses.smooth_l1, F.smooth_l1_loss),
        (losses.squared_error, lambda x, y: F.mse_loss(x, y, reduction="sum") / 3),
        (lambda x, y: losses.smooth_l1(x, y, beta=0.3), lambda x, y: F.smooth_l1_loss(x, y, beta=0.3)),
    ],
)
def test_elementwise_losses_are_pytorchs_bit_for_bit(
    ours: Callable[..., Tensor], pytorch: Callable[..., Tensor]
) -> None:
    student, teacher = randn(3, 4, 5, dtype=torch.float32), randn(3, 4, 5, seed=1, dtype=torch.float32)
    assert torch.equal(ours(student, teacher), pytorch(student, teacher))
    assert torch.equal(gradient(lambda x: ours(x, teacher), student), gradient(lambda x: pytorch(x, teacher), student))


def test_smooth_l1_refuses_beta_zero() -> None:
    with pytest.raises(KDError, match="beta must be greater than 0, not 0"):
        losses.smooth_l1(randn(2), randn(2), beta=0.0)


def test_mse_does_not_broadcast() -> None:
    with pytest.raises(KDError, match=r"student \(4, 1\) and teacher \(4,\)"):
        losses.mse(randn(4, 1), randn(4))


def test_whole_numbers_are_widened() -> None:
    assert losses.mse(torch.ones(3), torch.tensor([1, 2, 3])).item() == pytest.approx(5 / 3)


def test_cosine_takes_vectors_along_a_dimension() -> None:
    student, teacher = randn(2, 3, 4, 5), randn(2, 3, 4, 5, seed=1)
    for dim in (-1, 1):
        expected = (1 - F.cosine_similarity(student, teacher, dim=dim)).mean()
        torch.testing.assert_close(losses.cosine(student, teacher, dim=dim), expected)
    assert losses.cosine(student, -3 * student).item() == pytest.approx(2)
    assert losses.cosine(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 0.0])).item() == pytest.approx(0.4)


def test_cosine_counts_what_the_mask_says() -> None:
    student, teacher = randn(2, 3, 4), randn(2, 3, 4, seed=1)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    kept = losses.cosine(student[mask.bool()], teacher[mask.bool()])
    torch.testing.assert_close(losses.cosine(student, teacher, mask), kept)
    assert not gradient(lambda x: losses.cosine(x, teacher, mask), student)[mask == 0].any()
    nothing = losses.cosine(student.requires_grad_(), teacher, torch.zeros(2, 3))
    assert nothing.item() == 0
    assert nothing.requires_grad
    with pytest.raises(KDError, match=r"mask \(2, 4\) does not fit student.* \(2, 3\)"):
        losses.cosine(student, teacher, mask.new_ones(2, 4))


def test_hint_is_half_the_width_times_mse() -> None:
    student, teacher = randn(2, 6, 3, 3), randn(2, 6, 3, 3, seed=1)
    torch.testing.assert_close(losses.hint(student, teacher), 3 * losses.mse(student, teacher))


def test_attention_ignores_scale_and_sign() -> None:
    student, teacher = randn(2, 3, 4, 4), randn(2, 5, 4, 4, seed=1)
    for p in (1.0, 2.0, 3.0):
        expected = losses.attention_transfer(student, teacher, p=p)
        torch.testing.assert_close(losses.attention_transfer(-7 * student, teacher.abs(), p=p), expected)
    with pytest.raises(KDError, match=r"student \(2, 3, 4, 4\) and teacher \(1, 3, 4, 4\)"):
        losses.attention_transfer(student, randn(1, 3, 4, 4))
    with pytest.raises(KDError, match=r"must be \(B, C, H, W\)"):
        losses.attention_transfer(randn(2, 3), randn(2, 3))
    with pytest.raises(KDError, match="p must be greater than 0, not 0"):
        losses.attention_transfer(student, teacher, p=0)


# relations ----------------------------------------------------------------------------------------------------------

RELATIONS = [losses.similarity_preserving, losses.pkt, losses.rkd_distance, losses.rkd_angle]


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_do_not_depend_on_scale_rotation_or_order(loss: Callable[..., Tensor]) -> None:
    student, teacher = randn(6, 4), randn(6, 3, seed=1)
    expected = loss(student, teacher)
    assert expected.item() > 1e-4
    rotation = torch.linalg.qr(randn(4, 4, seed=2)).Q
    torch.testing.assert_close(loss(5 * student @ rotation, teacher), expected, rtol=1e-6, atol=0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(loss(student[order], teacher[order]), expected)
    assert abs(loss(student[order], teacher).item() - expected.item()) > 1e-5


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_are_zero_with_one_sample_or_for_a_copy(loss: Callable[..., Tensor]) -> None:
    assert loss(randn(1, 4), randn(1, 3, seed=1)).item() == 0
    student = randn(5, 4)
    torch.testing.assert_close(loss(student, 2 * student), torch.zeros(()).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_take_any_shape_with_the_same_batch(loss: Callable[..., Tensor]) -> None:
    student, teacher = randn(4, 2, 3, 3), randn(4, 5, seed=1)
    torch.testing.assert_close(loss(student, teacher), loss(student.flatten(1), teacher))
    with pytest.raises(KDError, match=r"student \(4,\) and teacher \(4,\)"):
        loss(randn(4), randn(4))


@pytest.mark.parametrize("loss", [losses.rkd_distance, losses.rkd_angle])
def test_rkd_ignores_where_the_origin_is(loss: Callable[..., Tensor]) -> None:
    student, teacher = randn(5, 4), randn(5, 3, seed=1)
    torch.testing.assert_close(loss(student + 10, teacher), loss(student, teacher))


def test_rkd_distance_keeps_near_pairs_in_float32() -> None:
    """Inner products of rows of length 1000 leave nothing of a distance of 0.01."""
    student = 1e-2 * randn(6, 3) + 1000
    exact = losses.rkd_distance(student.float().double(), randn(6, 3, seed=1))
    assert losses.rkd_distance(student.float(), randn(6, 3, seed=1).float()).item() == pytest.approx(
        exact.item(), rel=1e-4
    )


@pytest.mark.parametrize("loss", RELATIONS)
def test_coinciding_samples_do_not_blow_up_the_gradient(loss: Callable[..., Tensor]) -> None:
    student = randn(5, 4)
    student[1] = student[0]
    assert gradient(lambda x: loss(x, randn(5, 3, seed=1)), student).abs().max() < 10


def test_every_loss_of_the_issue_is_there() -> None:
    wanted = """attention_transfer cosine cross_entropy hint kd l1 mse multilabel_kd pkt rkd_angle rkd_distance
        similarity_preserving smooth_l1"""
    assert set(wanted.split()) <= set(LOSSES)


def test_factor_transfer_of_another_p_is_a_norm_of_each_sample() -> None:
    student, teacher = randn(3, 2, 2, 2), randn(3, 2, 2, 2, seed=1)
    apart = F.normalize(student.flatten(1)) - F.normalize(teacher.flatten(1))
    for p in (1.5, 2.0, 3.0):
        expected = apart.abs().pow(p).sum(1).pow(1 / p).mean()
        torch.testing.assert_close(losses.factor_transfer(student, teacher, p=p), expected)


def test_hierarchical_context_is_pooled_by_the_height_of_maps() -> None:
    """Of a map 8 high and 2 wide all three pooled sizes count, of one 2 high and 8 wide only the smallest."""
    student, teacher = randn(2, 3, 8, 2), randn(2, 3, 8, 2, seed=1)
    pooled = [F.mse_loss(F.adaptive_avg_pool2d(student, n), F.adaptive_avg_pool2d(teacher, n)) for n in (4, 2, 1)]
    parts = [F.mse_loss(student, teacher), *(loss / 2**n for n, loss in enumerate(pooled, 1))]
    torch.testing.assert_close(losses.hierarchical_context(student, teacher), torch.stack(parts).sum() / 1.875)
    flat = [F.mse_loss(student, teacher), pooled[2] / 2]
    torch.testing.assert_close(losses.hierarchical_context(student.mT, teacher.mT), torch.stack(flat).sum() / 1.5)
