"""Losses for text models: padding counts for nothing, lists of layers, heads, formulas by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses import LOSSES

B, L, HEADS, H = 3, 6, 2, 8
LENGTHS = (4, 1, 3)
MASK = (torch.arange(L) < torch.tensor(LENGTHS)[:, None]).long()
STATES = {"student": (B, L, H), "teacher": (B, L, H)}
NARROW = {"student": (B, L, 4), "teacher": (B, L, H)}
MAPS = {"student": (B, HEADS, L, L), "teacher": (B, HEADS, L, L)}
TOKENS = {"dim": -1}
EACH_MASKED: dict[str, tuple[str, dict[str, tuple[int, ...]], int, dict[str, Any]]] = {
    "states": ("hidden_mse", STATES, 1, {}),
    "layers": ("hidden_mse", STATES, 2, {}),
    "cosine": ("cosine", STATES, 1, {}),
    "kd": ("kd", STATES, 1, TOKENS),
    "reverse": ("reverse_kl", STATES, 1, TOKENS),
    "js": ("jensen_shannon", STATES, 1, TOKENS),
    "tv": ("total_variation", STATES, 1, TOKENS),
    "soft": ("soft_cross_entropy", STATES, 1, TOKENS),
    "scores": ("attention_mse", MAPS, 1, {}),
    "queries-keys-mse": ("attention_mse", NARROW, 2, {"heads": HEADS}),
    "queries-keys": ("attention_kl", NARROW, 2, {"heads": HEADS}),
    "relation": ("attention_kl", NARROW, 1, {"heads": HEADS}),
    "attention": ("attention_kl", MAPS, 1, {}),
}
every_masked = pytest.mark.parametrize("key", EACH_MASKED)


def made(key: str, seed: int = 0) -> dict[str, list[Tensor]]:
    """The tensors of each wire; those of maps of attention are probabilities with nothing on padding."""
    _, shapes, count, _ = EACH_MASKED[key]
    random = torch.Generator().manual_seed(seed)
    given = {
        wire: [torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(count)]
        for wire, shape in shapes.items()
    }
    if key == "attention":
        hidden = MASK[:, None, None, :] == 0
        given = {
            wire: [each.masked_fill(hidden, -math.inf).softmax(-1) for each in many] for wire, many in given.items()
        }
    return {wire: [each.requires_grad_() for each in many] for wire, many in given.items()}


def result(key: str, given: dict[str, list[Tensor]], mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """The value and the gradients."""
    name, _, _, values = EACH_MASKED[key]
    wires = {wire: many if len(many) > 1 else many[0] for wire, many in given.items()}
    value = LOSSES.get(name)(**wires, mask=mask, **values)
    return value, list(torch.autograd.grad(value, [each for many in given.values() for each in many]))


def cut(tensor: Tensor, size: int) -> Tensor:
    """The first positions only: of states (B, L, H) or of maps (B, heads, L, L)."""
    return tensor[:, :size] if tensor.ndim == 3 else tensor[:, :, :size, :size]


@every_masked
def test_positions_appended_as_padding_change_neither_value_nor_gradient(key: str) -> None:
    whole = made(key)
    size = max(LENGTHS)
    short = {wire: [cut(each.detach(), size).clone().requires_grad_() for each in many] for wire, many in whole.items()}
    value, gradients = result(key, whole, MASK)
    expected, wanted = result(key, short, MASK[:, :size])
    torch.testing.assert_close(value, expected, rtol=1e-14, atol=0)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(cut(gradient, size), want, rtol=1e-13, atol=1e-16)
        padded = gradient.clone()
        cut(padded, size).zero_()
        assert not padded.any()


@every_masked
def test_what_padding_holds_changes_nothing_at_all(key: str) -> None:
    given, other = made(key), made(key, seed=1)
    seen = MASK.bool()
    pairs = (seen[:, None, :, None] & seen[:, None, None, :]).expand(B, HEADS, L, L)
    for wire, many in other.items():
        for position, each in enumerate(many):
            keep = seen[..., None] if each.ndim == 3 else pairs
            many[position] = torch.where(keep, given[wire][position], 10 * each).detach().requires_grad_()
    value, gradients = result(key, given, MASK)
    again, same = result(key, other, MASK)
    assert torch.equal(value, again)
    assert all(torch.equal(one, two) for one, two in zip(gradients, same, strict=True))
    for gradient in gradients:
        keep = seen[..., None].expand_as(gradient) if gradient.ndim == 3 else pairs
        assert not gradient[~keep].any()
        assert gradient[keep].any()


@every_masked
def test_a_mask_of_ones_is_no_mask(key: str) -> None:
    given = made(key)
    if key == "attention":
        given = {
            wire: [torch.rand_like(each).softmax(-1).requires_grad_() for each in many] for wire, many in given.items()
        }
    value, gradients = result(key, given, torch.ones(B, L))
    expected, wanted = result(key, given, None)
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradients, wanted, rtol=1e-12, atol=1e-16)


@every_masked
def test_nothing_that_counts_is_zero(key: str) -> None:
    value, gradients = result(key, made(key), torch.zeros(B, L, dtype=torch.bool))
    assert value.item() == 0
    assert not any(gradient.any() for gradient in gradients)


@every_masked
def test_a_mask_of_another_shape_is_named(key: str) -> None:
    with pytest.raises(KDError, match=r"mask \(3, 5\) does not fit student"):
        result(key, made(key), MASK[:, :-1])


def test_the_masked_mean_of_hidden_states_is_over_the_positions_that_count() -> None:
    student, teacher = torch.zeros(2, 3, 2), torch.ones(2, 3, 2)
    teacher[0, 1] = 3.0
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    assert LOSSES.get("hidden_mse")(student, teacher, mask).item() == pytest.approx((1 + 9 + 1) / 3)


def test_layers_of_hidden_states_are_added_and_those_of_patience_averaged() -> None:
    random = torch.Generator().manual_seed(0)
    students, teachers = (list(torch.randn(2, 3, 4, 5, generator=random)) for _ in range(2))
    for name, reduce in (("hidden_mse", sum), ("patience", lambda each: sum(each) / 2)):
        loss = LOSSES.get(name)
        each = [loss(*pair).item() for pair in zip(students, teachers, strict=True)]
        assert loss(students, teachers).item() == pytest.approx(reduce(each))  # type: ignore[operator]


def test_patience_sees_the_first_position_only_and_lengths_may_differ() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, generator=random), torch.randn(2, 7, 5, generator=random)
    patience = LOSSES.get("patience")
    by_hand = (F.normalize(student[:, 0]) - F.normalize(teacher[:, 0])).square().mean().item()
    assert patience(student, teacher).item() == pytest.approx(by_hand)
    assert patience(student[:, 0], teacher[:, 0]).item() == pytest.approx(by_hand)
    assert patience(3 * student, teacher).item() == pytest.approx(by_hand)


@pytest.mark.parametrize("name", ["hidden_mse", "patience"])
def test_lists_of_unequal_length_are_refused(name: str) -> None:
    state = torch.zeros(2, 3, 4)
    with pytest.raises(KDError, match="student has 2 layers and teacher 1"):
        LOSSES.get(name)([state, state], [state])


def by_head(given: Tensor, heads: int) -> list[Tensor]:
    return list(given.double().split(given.shape[-1] // heads, dim=-1))


def test_scores_of_queries_and_keys_are_those_of_self_attention() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(B, L, width, generator=random) for _ in range(2)] for width in (4, 8))

    def scores(pair: list[Tensor]) -> Tensor:
        heads = zip(*(by_head(each, HEADS) for each in pair), strict=True)
        return torch.stack([q @ k.mT / math.sqrt(q.shape[-1]) for q, k in heads], dim=1)

    wanted = F.mse_loss(scores(student), scores(teacher)).item()
    attention_mse = LOSSES.get("attention_mse")
    assert attention_mse(student, teacher, heads=HEADS).item() == pytest.approx(wanted, rel=1e-5)
    assert attention_mse(scores(student), scores(teacher)).item() == pytest.approx(wanted)


@pytest.mark.parametrize("filled", [-math.inf, torch.finfo(torch.float32).min, -1e4])
def test_masked_scores_count_as_zero_whatever_a_model_fills_them_with(filled: float) -> None:
    scores = torch.randn(2, 2, HEADS, L, L, generator=torch.Generator().manual_seed(0))
    hidden = MASK[:2, None, None, :] == 0
    given = [each.masked_fill(hidden, filled).requires_grad_() for each in scores]
    value = LOSSES.get("attention_mse")(*given)
    assert value.item() == pytest.approx(F.mse_loss(*(each.masked_fill(hidden, 0.0) for each in scores)).item())
    value.backward()
    assert given[0].grad is not None
    assert given[0].grad.isfinite().all()
    assert not given[0].grad[hidden.expand_as(given[0])].any()


def test_minilm_by_hand_one_sequence_at_a_time() -> None:
    """Equations 6 to 8 of MiniLM: each sequence without its padding, then the mean over sequences."""
    random = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(B, L, width, generator=random) for _ in range(2)] for width in (4, 8))
    values: list[float] = []
    for row, length in enumerate(LENGTHS):
        logs = []
        for pair in (student, teacher):
            heads = zip(*(by_head(each[row, :length], HEADS) for each in pair), strict=True)
            logs.append(torch.stack([(q @ k.mT / math.sqrt(q.shape[-1])).log_softmax(-1) for q, k in heads]))
        values.append(F.kl_div(logs[0], logs[1], reduction="sum", log_target=True).item() / (HEADS * length))
    got = LOSSES.get("attention_kl")(student, teacher, MASK, heads=HEADS)
    assert got.item() == pytest.approx(sum(values) / B, rel=1e-5)


def test_maps_of_attention_give_what_their_queries_and_keys_give() -> None:
    random = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(B, L, width, generator=random).double() for _ in range(2)] for width in (4, 8)]
    maps = []
    for pair in pairs:
        heads = zip(*(by_head(each, HEADS) for each in pair), strict=True)
        scores = torch.stack([q @ k.mT / math.sqrt(q.shape[-1]) for q, k in heads], dim=1)
        maps.append(scores.masked_fill(MASK[:, None, None, :] == 0, -math.inf).softmax(-1))
    attention_kl = LOSSES.get("attention_kl")
    assert attention_kl(*maps, MASK).item() == pytest.approx(attention_kl(*pairs, MASK, heads=HEADS).item())


def test_zeros_that_dropout_makes_in_a_map_leave_value_and_gradient_finite() -> None:
    maps = [torch.rand(1, 1, 3, 3).softmax(-1) for _ in range(2)]
    maps[0][..., 0] = 0.0
    student, teacher = (each.requires_grad_() for each in maps)
    value = LOSSES.get("attention_kl")(student, teacher)
    value.backward()
    assert value.isfinite()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in (student, teacher))


def test_relation_heads_are_not_tied_to_the_width() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 12, generator=random), torch.randn(2, 3, 24, generator=random)
    values = {heads: LOSSES.get("attention_kl")(student, teacher, heads=heads).item() for heads in (1, 2, 4, 12)}
    assert len(set(values.values())) == 4


@pytest.mark.parametrize(
    ("name", "student", "teacher", "heads", "message"),
    [
        ("attention_kl", [(2, 3, 8)], [(2, 3, 9)], 4, r"teacher \(2, 3, 9\) cannot be split into 4 heads"),
        (
            "attention_kl",
            [(2, 3, 8)],
            [(2, 4, 8)],
            4,
            r"student \(2, 3, 8\) and teacher \(2, 4, 8\) must have the same",
        ),
        ("attention_kl", [(2, 3, 8)] * 3, [(2, 3, 8)], 4, r"student \[\(2, 3, 8\), .*\] must be \(B, L, H\)"),
        ("attention_kl", [(2, 8)], [(2, 8)], 4, r"student \(2, 8\) must be \(B, L, H\)"),
        ("attention_kl", [(2, 2, 3, 4)], [(2, 2, 3, 4)], 4, r"must be an attention map"),
        ("attention_mse", [(2, 3, 8)], [(2, 3, 8)], 4, r"student \(2, 3, 8\) must be scores .*"),
        ("attention_mse", [(2, 2, 3, 3)], [(2, 4, 3, 3)], 4, r"student \(2, 2, 3, 3\) and teacher \(2, 4, 3, 3\)"),
        ("attention_mse", [(2, 3, 8), (2, 3, 4)], [(2, 3, 8)] * 2, 4, r"student \[\(2, 3, 8\), \(2, 3, 4\)\] must be"),
    ],
)
def test_attention_that_does_not_fit_is_named(
    name: str, student: list[tuple[int, ...]], teacher: list[tuple[int, ...]], heads: int, message: str
) -> None:
    given = [[torch.zeros(each) for each in shapes] for shapes in (student, teacher)]
    with pytest.raises(KDError, match=message):
        LOSSES.get(name)(*(each if len(each) > 1 else each[0] for each in given), heads=heads)


def test_divergences_are_zero_between_equals_and_ordered_as_they_should_be() -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 5, 7, generator=random, dtype=torch.float64)
    for name in ("reverse_kl", "jensen_shannon", "total_variation"):
        assert LOSSES.get(name)(teacher, teacher).item() == pytest.approx(0, abs=1e-15)
    kd, reverse = (LOSSES.get(name) for name in ("kd", "reverse_kl"))
    assert reverse(student, teacher).item() == pytest.approx(kd(teacher, student, temperature=1.0).item())
    shannon = LOSSES.get("jensen_shannon")
    assert shannon(student, teacher).item() == pytest.approx(shannon(teacher, student).item())
    assert shannon(student, teacher, beta=0.2).item() == pytest.approx(shannon(teacher, student, beta=0.8).item())
    assert shannon(100 * student, -100 * student).item() == pytest.approx(math.log(2))
    assert shannon(student, teacher, beta=0).item() == pytest.approx(kd(student, teacher, temperature=1.0).item())


def test_soft_cross_entropy_is_a_share_of_the_cross_entropy() -> None:
    student, teacher = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    soft = LOSSES.get("soft_cross_entropy")(student, teacher, temperature=2.0)
    assert soft.item() == pytest.approx(F.cross_entropy(student / 2, (teacher / 2).softmax(1)).item() / 3)


@pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon", "total_variation", "soft_cross_entropy"])
def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(KDError, match=r"student \(4, 1\) has one class"):
        LOSSES.get(name)(torch.zeros(4, 1), torch.zeros(4, 1))


def test_values_out_of_range_are_refused() -> None:
    logits = torch.zeros(2, 3)
    with pytest.raises(KDError, match=r"beta must be in \[0, 1\], not 1\.5"):
        LOSSES.get("jensen_shannon")(logits, logits, beta=1.5)
    for name in ("reverse_kl", "jensen_shannon", "soft_cross_entropy"):
        with pytest.raises(KDError, match="temperature must be greater than 0, not 0"):
            LOSSES.get(name)(logits, logits, temperature=0.0)
