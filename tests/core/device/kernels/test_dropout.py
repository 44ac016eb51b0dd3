"""Dropout and attention by kernels: what is dropped, how often, and values and gradients beside PyTorch's in double."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.device.kernels.dropout import Dropout, attention, patch_dropouts
from kd_core.device.kernels.library import can_build

pytestmark = pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
KINDS = [torch.float32, torch.bfloat16]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def kept(count: int, p: float, seed: int) -> Tensor:
    """Which of so many ones are kept."""
    torch.manual_seed(seed)
    return Dropout(p)(torch.ones(count)) != 0


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_asked_and_the_others_are_scaled(p: float, dtype: torch.dtype) -> None:
    values = drawn(1000, 1003, dtype=dtype).abs() + 1
    torch.manual_seed(1)
    out = Dropout(p)(values)
    stays = out != 0
    spread = math.sqrt(p * (1 - p) / values.numel())
    assert abs(stays.double().mean() - (1 - p)) < 5 * spread
    scaled = (values.float() * (1 / (1 - p))).to(dtype)
    assert torch.equal(out[stays], scaled[stays])


def test_what_is_dropped_in_one_place_or_by_one_seed_says_nothing_of_others() -> None:
    rows = torch.stack([kept(64 * 1024, 0.5, seed) for seed in range(4)]).float() * 2 - 1
    places = rows.reshape(-1, 1024)  # blocks, of which each has its own generators, by place
    for signs in (rows, places, places.T, rows.reshape(-1, 16).T):
        apart = signs @ signs.T / signs.shape[1]
        apart.fill_diagonal_(0)
        assert apart.abs().max() < 6.5 / math.sqrt(signs.shape[1])
    for distance in (1, 15, 16, 17, 1023, 1024):
        products = rows[:, distance:] * rows[:, :-distance]
        assert abs(products.mean()) < 5 / math.sqrt(products.numel())


def test_the_same_seed_drops_the_same_with_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = kept(100_003, 0.3, 5)
        torch.set_num_threads(2)
        assert torch.equal(kept(100_003, 0.3, 5), alone)
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(kept(100_003, 0.3, 6), alone)


@pytest.mark.parametrize("shape", [(0,), (1,), (15,), (17, 3), (2, 1024), (3, 5, 7)])
@pytest.mark.parametrize("dtype", KINDS)
def test_gradients_are_dropped_where_values_are(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    values = torch.ones(shape, dtype=dtype, requires_grad=True)
    out = Dropout(0.4)(values)
    (gradient,) = torch.autograd.grad(out, values, torch.ones_like(out), create_graph=True)
    assert torch.equal(gradient, out)
    transposed = torch.ones(3, 40).T.requires_grad_()
    out = Dropout(0.4)(transposed)
    (gradient,) = torch.autograd.grad(out.sum(), transposed)
    assert torch.equal(gradient, out.detach())


def test_gradients_of_gradients_are_dropped_there_too() -> None:
    values = drawn(5, 30).requires_grad_()
    torch.manual_seed(2)
    out = Dropout(0.5)(values)
    (gradient,) = torch.autograd.grad((out**2).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), values)
    assert torch.equal(second, torch.where(out != 0, 8.0, 0.0))


@pytest.mark.parametrize("values", [drawn(4, 4).double(), drawn(4, 4).half()])
def test_other_types_are_pytorchs(values: Tensor) -> None:
    torch.manual_seed(3)
    out = Dropout(0.5)(values)
    torch.manual_seed(3)
    assert torch.equal(out, F.dropout(values, 0.5))


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    values, state = drawn(4, 4), torch.get_rng_state()
    assert torch.equal(Dropout(0.5).eval()(values), values)
    assert torch.equal(Dropout(0.0)(values), values)
    attention(*(values[None, None],) * 3, None)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(Dropout(1.0)(values), torch.zeros(4, 4))


def test_only_plain_dropouts_become_kernels() -> None:
    class Own(nn.Dropout):
        pass

    model = nn.Sequential(nn.Dropout(0.1), Own(0.1), nn.Dropout2d(0.1), nn.Dropout(0.1, inplace=True))
    patch_dropouts(model)
    assert [type(module) for module in model] == [Dropout, Own, nn.Dropout2d, Dropout]
    values = torch.ones(10, 10)
    assert model[3](values) is values


def masks(sequences: int, heads: int, rows: int, columns: int) -> dict[str, Tensor | None]:
    seen = torch.rand(sequences, heads, rows, columns, generator=torch.Generator().manual_seed(4)) < 0.7
    seen[..., 0] = True
    blind = seen.clone()
    blind[0, -1, 0] = False
    turned = seen.transpose(2, 3).contiguous().transpose(2, 3)
    forms = {"of a key": seen[:, :1, :1], "of a row": seen[:, :1], "of a head": seen, "blind": blind}
    return {"none": None, **forms, "turned": turned, "one": seen[:1, :1, :1]}


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("mask", ["none", "of a key", "of a row", "of a head", "blind", "turned", "one"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 15), (16, 16), (7, 33), (3, 200)])
def test_attention_is_pytorchs(rows: int, columns: int, mask: str, dtype: torch.dtype) -> None:
    sizes = (rows, columns, columns)
    query, key, value = (drawn(3, 2, size, 8, seed=seed, dtype=dtype) for seed, size in enumerate(sizes))
    seen, back = masks(3, 2, rows, columns)[mask], drawn(3, 2, rows, 8, seed=9)

    def outcome(kind: torch.dtype, *, ours: bool) -> list[Tensor]:
        inputs = [each.detach().to(kind).requires_grad_() for each in (query, key, value)]
        out = attention(*inputs, seen) if ours else F.scaled_dot_product_attention(*inputs, attn_mask=seen)
        return [out.detach(), *torch.autograd.grad(out, inputs, back.to(out.dtype))]

    exact, got = outcome(torch.float64, ours=False), outcome(dtype, ours=True)
    for ours, theirs in zip(got, exact, strict=True):
        bound = 3e-6 if dtype is torch.float32 else 0.03
        assert ours.dtype is dtype
        assert (ours.double() - theirs).norm() <= bound * (theirs.norm() + 1)


@pytest.mark.parametrize("dtype", KINDS)
def test_weights_of_an_attention_are_dropped_and_their_gradients_with_them(dtype: torch.dtype) -> None:
    count = 48
    query = drawn(20, 4, count, 8, dtype=dtype).requires_grad_()
    key, eye = drawn(20, 4, count, 8, seed=1, dtype=dtype), torch.eye(count, dtype=dtype).expand(20, 4, -1, -1)
    torch.manual_seed(0)
    dropped = attention(query, key, eye, None, dropout=0.25, scale=0.5)
    whole = torch.softmax(query.detach().double() @ key.double().transpose(2, 3) * 0.5, -1)
    stays = dropped.detach() != 0
    assert abs(stays.double().mean() - 0.75) < 5 * math.sqrt(0.25 * 0.75 / stays.numel())
    torch.testing.assert_close(dropped.detach().double(), whole * stays / 0.75, rtol=0.03, atol=1e-6)
    back = drawn(20, 4, count, count, seed=2)
    (gradient,) = torch.autograd.grad(dropped, query, back.to(dtype))
    again = query.detach().double().requires_grad_()
    out = torch.softmax(again @ key.double().transpose(2, 3) * 0.5, -1) * stays / 0.75
    (expected,) = torch.autograd.grad(out, again, back.double())
    assert (gradient.double() - expected).norm() <= (1e-5 if dtype is torch.float32 else 0.03) * expected.norm()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(wrong: float) -> None:
    query = drawn(1, 1, 3, 8)
    query[0, 0, 1, 2] = wrong
    out = attention(query, drawn(1, 1, 20, 8, seed=1).abs(), drawn(1, 1, 20, 8, seed=2), None)
    assert out[0, 0, 1].isnan().all()
    assert out[0, 0, [0, 2]].isfinite().all()


def test_large_scores_are_as_exact_as_small_ones() -> None:
    query, key, value = (drawn(1, 2, 30, 8, seed=seed) for seed in range(3))
    exact = F.scaled_dot_product_attention(*(each.double() for each in (query * 40, key, value)))
    torch.testing.assert_close(attention(query * 40, key, value, None).double(), exact, rtol=1e-4, atol=1e-5)


def test_maps_keep_their_layout_and_so_do_their_gradients() -> None:
    maps = drawn(2, 8, 5, 5).contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.manual_seed(0)
    out = Dropout(0.5)(maps)
    assert out.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(out, maps, torch.ones(2, 8, 5, 5))
    assert torch.equal(gradient != 0, out != 0)


def test_nearly_all_and_all_are_dropped() -> None:
    assert not Dropout(1 - 1e-10)(torch.ones(10_000)).any()
    assert not Dropout(1.0)(torch.ones(100)).any()


def test_transforms_of_functions_and_proxies_are_pytorchs() -> None:
    gradient = torch.func.grad(lambda values: Dropout(0.5)(values).sum())(torch.ones(10))
    assert set(gradient.tolist()) <= {0.0, 2.0}
    traced = torch.fx.symbolic_trace(nn.Sequential(Dropout(0.5)).eval())
    assert torch.equal(traced(torch.ones(3)), torch.ones(3))
