"""Losses for dense outputs: void positions, memory, digits, errors. Their values are in tests/golden."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kd_core.errors import KDError
from kd_core.losses import LOSSES, affinity, cwd, dense, kd, knowledge_adaptation, norm_penalty, skd_pairwise

SOFT = ["cwd", "kd", "soft_cross_entropy", "reverse_kl", "jensen_shannon", "total_variation"]


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def slopes(loss: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, given)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that anything puts out."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(each.numel() for each in tree_leaves(out) if isinstance(each, Tensor))])
        return out


def largest(name: str, *shape: int, **values: Any) -> int:
    """Of a loss and its gradients, on tensors without numbers."""
    given = [torch.empty(shape, device="meta", requires_grad=True) for _ in range(2)]
    with Largest() as seen:
        LOSSES.get(name)(*given, **values).backward()
    return seen.numel


@pytest.mark.parametrize("name", SOFT)
def test_void_pixels_change_nothing(name: str) -> None:
    loss = LOSSES.get(name)
    student, teacher, mask = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1), torch.rand(2, 4, 5) > 0.4
    void = ~mask[:, None].expand(student.shape)
    value = loss(student, teacher, mask)
    for filling in (0.0, 1e4, -1e4):
        others = [each.detach().masked_fill(void, filling).requires_grad_() for each in (student, teacher)]
        again = loss(*others, mask)
        assert again.item() == value.item()
        for slope in slopes(again, *others):
            assert slope[void].eq(0).all()
            assert slope.isfinite().all()
    assert value.item() != pytest.approx(loss(student, teacher).item(), rel=1e-3)


@pytest.mark.parametrize("name", SOFT)
def test_a_padded_batch_is_worth_its_samples(name: str) -> None:
    loss = LOSSES.get(name)
    student, teacher = maps(3, 3, 4, 5), maps(3, 3, 4, 5, seed=1)
    mask = torch.zeros(3, 4, 5)
    mask[0, :2], mask[1, :2] = 1, 1  # of the third image nothing counts
    inner = loss(student[:2, :, :2], teacher[:2, :, :2])
    assert loss(student, teacher, mask).item() == pytest.approx(inner.item(), rel=1e-12)
    assert loss(student, teacher, torch.ones(3, 4, 5)).item() == pytest.approx(loss(student, teacher).item(), rel=1e-12)
    nothing = loss(student, teacher, torch.zeros(3, 4, 5))
    assert nothing.item() == 0
    assert all(slope.eq(0).all() for slope in slopes(nothing, student, teacher))


@pytest.mark.parametrize("divergence", ["kl", "mse"])
def test_cwd_with_huge_logits_and_void_pixels_is_finite(divergence: str) -> None:
    student, teacher = ((maps(2, 3, 4, 4, seed=seed).detach().float() * 1e30).requires_grad_() for seed in (0, 1))
    mask = torch.arange(2 * 16).reshape(2, 4, 4) % 3
    loss = cwd(student, teacher, mask, temperature=0.1, divergence=divergence)
    assert loss.isfinite()
    assert all(slope.isfinite().all() for slope in slopes(loss, student, teacher))


def test_cwd_compares_channels_not_their_level() -> None:
    """A constant added to a channel moves no position against another; ``kd`` sees it."""
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    shifted = student + torch.tensor([1.0, -2.0, 3.0])[:, None, None]
    assert cwd(shifted, teacher).item() == pytest.approx(cwd(student, teacher).item(), rel=1e-12)
    assert kd(shifted, teacher).item() != pytest.approx(kd(student, teacher).item(), rel=1e-3)


def test_affinity_is_that_of_all_pairs_of_positions() -> None:
    student, teacher = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    rows = [each.flatten(2) / each.flatten(2).norm(dim=2, keepdim=True) for each in (student, teacher)]
    ours, theirs = (each[..., None] * each[..., None, :] for each in rows)
    expected = (ours - theirs).norm(dim=(2, 3)).sum(1).mean() / 20
    value = affinity(student, teacher)
    assert value.item() == pytest.approx(expected.item(), rel=1e-12)
    for one, other in zip(slopes(value, student, teacher), slopes(expected, student, teacher), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_affinity_keeps_its_digits_where_both_are_near() -> None:
    teacher = maps(1, 2, 8, 8).detach()
    student = teacher + 1e-4 * maps(1, 2, 8, 8, seed=1).detach()
    exact = affinity(student.float().double(), teacher.float().double())
    assert affinity(student.float(), teacher.float()).item() == pytest.approx(exact.item(), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "values", "most"),
    [("affinity", {}, 2 * 21 * 128**2), ("skd_pairwise", {"scale": 1 / 128}, 2 * dense.PAIRS)],
)
def test_no_matrix_of_all_pairs_of_positions_is_made(name: str, values: dict[str, Any], most: int) -> None:
    assert largest(name, 2, 21, 128, 128, **values) <= most < 128**4 // 64


def test_pairwise_in_parts_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = maps(2, 3, 6, 5), maps(2, 4, 6, 5, seed=1)
    whole = skd_pairwise(student, teacher, scale=0.2)
    expected = slopes(whole, student, teacher)
    monkeypatch.setattr(dense, "PAIRS", 100)  # 30 nodes: 3 rows at a time
    parts = skd_pairwise(student, teacher, scale=0.2)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-12)
    for one, other in zip(slopes(parts, student, teacher), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-14)


def test_pairwise_looks_through_lengths_only_when_asked() -> None:
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    fixed, full = (skd_pairwise(student, teacher, norm_gradient=each) for each in (False, True))
    assert fixed.item() == full.item()
    (through,), (past,) = slopes(full, student), slopes(fixed, student)
    assert through.mul(student).sum().abs() < 1e-8  # longer vectors have the same cosines
    assert past.mul(student).sum().abs() > 1e-3


def test_adaptation_has_no_scale_and_bears_zeros() -> None:
    student, teacher = maps(2, 3, 4, 4), maps(2, 3, 4, 4, seed=1)
    for p, q in ((1.0, 2.0), (2.0, 1.0)):
        value = knowledge_adaptation(student, teacher, p=p, q=q)
        assert knowledge_adaptation(5 * student, 0.1 * teacher, p=p, q=q).item() == pytest.approx(value.item())
        dead = torch.zeros_like(student).requires_grad_()
        lone = knowledge_adaptation(dead, teacher, p=p, q=q)
        assert lone.isfinite()
        assert slopes(lone, dead)[0].eq(0).all()


def test_the_penalty_is_of_the_whole_batch() -> None:
    code = maps(4, 3, 2, 2)
    assert norm_penalty(code).item() == pytest.approx(sum(norm_penalty(each).item() for each in code))
    assert norm_penalty(code, p=2).item() == pytest.approx(code.square().sum().sqrt().item())
    assert norm_penalty.over_batch is True  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "shapes", "values", "says"),
    [
        ("cwd", [(2, 3, 4, 4), (2, 3, 4, 4)], {"divergence": "mes"}, "divergence must be .kl. or .mse., not .mes."),
        ("cwd", [(2, 3, 4, 4), (2, 3, 4, 4)], {"temperature": 0.0}, "temperature must be greater than 0, not 0.0"),
        ("cwd", [(2, 3, 1, 1), (2, 3, 1, 1)], {}, "has one"),
        ("cwd", [(2, 3), (2, 3)], {}, "has one"),
        ("cwd", [(2, 3, 4, 4), (2, 3, 4, 4), (2, 4, 5)], {}, r"mask \(2, 4, 5\)"),
        ("skd_pairwise", [(2, 3, 4, 4), (2, 3, 4, 5)], {}, "nothing but C"),
        ("skd_pairwise", [(2, 3, 4), (2, 3, 4)], {}, "nothing but C"),
        ("skd_pairwise", [(2, 3, 4, 4), (2, 3, 4, 4)], {"scale": 0.2}, "are empty"),
        ("skd_pairwise", [(2, 3, 4, 4), (2, 3, 4, 4)], {"scale": 1.5}, r"scale must be in \(0, 1\], not 1.5"),
        ("affinity", [(2, 3), (2, 3)], {}, "no dimension 2"),
        ("knowledge_adaptation", [(2, 3), (2, 3)], {"p": 0.5}, "p must be at least 1, not 0.5"),
        ("knowledge_adaptation", [(2, 3), (2, 3)], {"q": 0}, "q must be at least 1, not 0"),
        ("norm_penalty", [(2, 3)], {"p": -1}, "p must be at least 1, not -1"),
    ],
)
def test_what_does_not_fit_is_named(name: str, shapes: list[Any], values: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError, match=f"(?s){says}"):
        LOSSES.get(name)(*(torch.zeros(shape) for shape in shapes), **values)
