"""Batch normalisation with the sum and the activation behind it, beside PyTorch's in double precision."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad
from torch.nn import functional as F
from torchvision.ops.misc import Conv2dNormActivation

from kd_core.device.kernels import norm
from kd_core.device.kernels.library import can_build
from kd_core.device.kernels.norm import BatchNorm2d, batch_norm, patch_norms
from kd_core.errors import KDError

pytestmark = pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
MOMENTUM, EPS = 0.1, 1e-5


def maps(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 3
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def outcome(images: Tensor, added: Tensor | None, activation: str | None, *, plain: bool) -> list[Tensor]:
    """Output, gradients and running statistics: of the kernel, or of PyTorch in double."""
    kind = torch.float64 if plain else images.dtype
    channels = images.shape[1]
    parameters = [torch.linspace(0.5, 1.5, channels), torch.linspace(-1, 1, channels)]
    inputs = [images, *parameters, *([] if added is None else [added])]
    inputs = [each.detach().clone(memory_format=torch.preserve_format).requires_grad_() for each in inputs]
    running = [torch.zeros(channels), torch.ones(channels)]
    if plain:
        running = [each.double() for each in running]
        used = [each.to(kind) for each in inputs]
        out = F.batch_norm(used[0], *running, used[1], used[2], True, MOMENTUM, EPS)
        out = out + used[3] if added is not None else out
        out = out if activation is None else norm.FUNCTIONS[activation](out)
    else:
        added = inputs[3] if added is not None else None
        out = batch_norm(inputs[0], *running, *inputs[1:3], MOMENTUM, EPS, added, activation)
    gradients = torch.autograd.grad(out, inputs, maps(*images.shape, seed=9).to(out.dtype))
    return [out.detach(), *gradients, *running]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("activation", "adds"),
    [(None, False), ("relu", False), ("relu6", False), ("hardswish", False), (None, True), ("relu", True)],
)
@pytest.mark.parametrize("channels", [3, 16, 24, 64, 80])
def test_output_gradients_and_statistics_are_pytorchs(
    channels: int, activation: str | None, adds: bool, dtype: torch.dtype
) -> None:
    images = maps(8, channels, 8, 4, dtype=dtype)
    added = maps(*images.shape, dtype=dtype, seed=1) - 4 if adds else None
    added = added.contiguous(memory_format=torch.channels_last) if added is not None else None
    assert norm._fits(images)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    for got, wanted in zip(
        outcome(images, added, activation, plain=False), outcome(images, added, activation, plain=True), strict=True
    ):
        assert float((got.double() - wanted.double()).abs().max() / wanted.double().abs().max()) < tolerance


def test_a_large_mean_costs_no_digits() -> None:
    images = (maps(8, 16, 8, 8) + 1e4).contiguous(memory_format=torch.channels_last)
    got, wanted = (outcome(images, None, None, plain=plain)[0].double() for plain in (False, True))
    assert (got - wanted).abs().max() < 5e-3  # the numbers themselves have steps of 1e-3


@pytest.mark.parametrize(
    "images",
    [
        maps(8, 16, 8, 8).contiguous(),
        maps(1, 16, 3, 1),
        maps(8, 16, 8, 8).double().contiguous(memory_format=torch.channels_last),
    ],
    ids=["channels first", "no whole strip", "double"],
)
def test_other_maps_are_left_to_pytorch(images: Tensor) -> None:
    assert not norm._fits(images)
    if images.dtype is torch.float32:
        for got, wanted in zip(
            outcome(images, images * 0.5, "relu", plain=False),
            outcome(images, images * 0.5, "relu", plain=True),
            strict=True,
        ):
            torch.testing.assert_close(got.double(), wanted.double(), rtol=1e-4, atol=1e-4)


def test_one_value_a_channel_is_pytorchs_error() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        outcome(maps(1, 64, 1, 1), None, None, plain=False)


@pytest.mark.parametrize("activation", norm.FUNCTIONS)
def test_what_is_not_finite_stays_so(activation: str) -> None:
    images = maps(4, 16, 4, 4)
    images[1, 3, 0, 0] = torch.nan
    out = outcome(images, None, activation, plain=False)[0]
    assert out[:, 3].isnan().all()
    assert out[:, :3].isfinite().all()


def test_the_bits_are_the_same_every_time() -> None:
    images = maps(8, 16, 8, 8, dtype=torch.bfloat16)
    first, again = (outcome(images, None, "relu", plain=False) for _ in range(2))
    assert all(torch.equal(left, right) for left, right in zip(first, again, strict=True))


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3, "eps": 0.1}],
)
def test_a_patched_module_does_what_pytorchs_does(options: dict[str, Any]) -> None:
    usual, ours = nn.BatchNorm2d(16, **options), nn.BatchNorm2d(16, **options)
    patch_norms(ours)
    assert type(ours) is BatchNorm2d
    for seed in range(3):
        images = maps(4, 16, 5, 5, seed=seed)
        torch.testing.assert_close(ours(images), usual(images), rtol=1e-4, atol=1e-4)
    for name, value in usual.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-4)
    images = maps(4, 16, 5, 5)
    torch.testing.assert_close(ours.eval()(images), usual.eval()(images), rtol=1e-4, atol=1e-4)


def test_what_derives_from_a_norm_is_left_alone_and_too_few_values_are_an_error() -> None:
    class Own(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Own(3), nn.BatchNorm2d(3), nn.BatchNorm1d(3))
    patch_norms(model)
    assert [type(module) for module in model] == [Own, BatchNorm2d, nn.BatchNorm1d]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model[1](torch.ones(1, 3, 1, 1))
    with pytest.raises(ValueError, match="4D input"):
        model[1](torch.ones(2, 3))


def test_a_gradient_of_the_gradient_is_refused() -> None:
    images = maps(4, 16, 5, 5).requires_grad_()
    out = batch_norm(images, None, None, torch.ones(16), torch.zeros(16), MOMENTUM, EPS)
    (gradient,) = torch.autograd.grad(out.sum(), images, create_graph=True)
    with pytest.raises(KDError, match="has no gradient itself"):
        gradient.sum().backward()


def test_what_a_kernel_cannot_read_is_pytorchs() -> None:
    images, row = maps(4, 16, 5, 5), torch.ones(16)
    norm = nn.BatchNorm2d(32)
    patch_norms(norm)
    with pytest.raises(RuntimeError, match="16 elements not 32"):
        norm(images)
    norm = nn.BatchNorm2d(16)
    norm.bias = None  # type: ignore[assignment]  # as an option of PyTorch 2.14 makes it
    patch_norms(norm)
    assert norm(images).isfinite().all()
    norm = nn.BatchNorm2d(16)
    patch_norms(norm)
    norm.running_var = torch.ones(16, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"[Dd]ouble"):
        norm(images)
    stretched = (torch.arange(1.0, 33)[::2], torch.zeros(1).expand(16))
    torch.testing.assert_close(
        batch_norm(images, None, None, *stretched, MOMENTUM, EPS),
        batch_norm(images, None, None, stretched[0].contiguous(), torch.zeros(16), MOMENTUM, EPS),
    )
    with pytest.raises(RuntimeError, match="elements"):
        batch_norm(images, None, None, torch.ones(1), row, MOMENTUM, EPS)


def test_fake_tensors_are_pytorchs() -> None:
    norm = nn.BatchNorm2d(16)
    patch_norms(norm)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert norm(torch.empty(2, 16, 4, 4).to(memory_format=torch.channels_last)).shape == (2, 16, 4, 4)


def test_numbers_that_are_none_stay_so_in_bfloat16() -> None:
    wrong = torch.full((16,), -1, dtype=torch.int32).view(torch.float32)
    images = maps(4, 16, 5, 5, dtype=torch.bfloat16)
    assert batch_norm(images, None, None, wrong, torch.zeros(16), MOMENTUM, EPS).isnan().all()


def test_an_activation_behind_a_sum_that_has_no_kernel_is_pytorchs() -> None:
    images = maps(4, 16, 5, 5)
    got, wanted = (outcome(images, images * 0.5, "hardswish", plain=plain) for plain in (False, True))
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left.double(), right.double(), rtol=1e-4, atol=1e-4)


def sequence(activation: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), activation, nn.BatchNorm2d(16), nn.Sigmoid(), nn.BatchNorm2d(16)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.Hardswish(inplace=True)])
def test_a_norm_and_the_activation_behind_it_are_one_kernel(
    activation: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, ours = sequence(activation), sequence(activation)
    patch_norms(ours)
    images, called = maps(4, 8, 6, 6), list[str | None]()
    run = norm.batch_norm
    monkeypatch.setattr(norm, "batch_norm", lambda *a, **k: called.append(k["activation"]) or run(*a, **k))
    for each in (usual, ours):
        each(images).square().mean().backward()
    assert called == [norm.LAYERS[type(activation)], None, None]
    torch.testing.assert_close(ours(images), usual(images), rtol=1e-3, atol=1e-4)
    for left, right in zip(ours.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.eval()(images), usual.eval()(images), rtol=1e-3, atol=1e-4)
    assert ours.state_dict().keys() == usual.state_dict().keys()


@pytest.mark.parametrize("place", [1, 2])
def test_hooks_see_what_the_two_layers_give(place: int) -> None:
    usual, ours = sequence(nn.ReLU()), sequence(nn.ReLU())
    patch_norms(ours)
    seen: list[Tensor] = []
    for each in (usual, ours):
        each[place].register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
        each(maps(4, 8, 6, 6))
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-3, atol=1e-4)
    assert bool((seen[1] < 0).any()) is (place == 1)


def test_sequences_with_a_class_of_their_own_are_fused_and_stay_of_that_class() -> None:
    class Pass(nn.Sequential):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) + 1

    block = Conv2dNormActivation(8, 16)
    model = nn.Sequential(block, Pass(nn.BatchNorm2d(16), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(16)))
    patch_norms(model)
    assert [isinstance(each, norm.FusedSequential) for each in model.modules() if isinstance(each, nn.Sequential)] == [
        *(False, True, False, False)
    ]
    assert isinstance(block, Conv2dNormActivation)
    assert type(block).__name__ == "Conv2dNormActivation"
    images = maps(4, 8, 6, 6)
    for again in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert type(again) is type(block)
        torch.testing.assert_close(again(images), block(images), rtol=1e-3, atol=1e-4)


def test_a_fused_sequence_can_be_cut_and_derived_from_in_turn() -> None:
    model = sequence(nn.ReLU())
    patch_norms(model)
    images = maps(4, 8, 6, 6)
    torch.testing.assert_close(model[2:](model[:2](images)), model(images), rtol=1e-3, atol=1e-4)
    model.__class__ = type("Sharded", (type(model),), {})  # as FSDP does
    again = copy.deepcopy(model)
    assert type(again) is type(model)
    torch.testing.assert_close(again(images), model(images), rtol=1e-3, atol=1e-4)


class Turned(nn.Sequential):
    def __iter__(self) -> Any:
        return iter(list(self._modules.values())[::-1])


class Locked(nn.Sequential):
    def __init__(self, *modules: nn.Module) -> None:
        super().__init__(*modules)
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lock": None}


def test_the_order_and_the_state_of_a_sequence_are_its_own() -> None:
    layers = [nn.ReLU(), nn.BatchNorm2d(8)]
    usual, ours = Turned(*copy.deepcopy(layers)), Turned(*layers)
    patch_norms(ours)
    images = maps(4, 8, 6, 6)
    torch.testing.assert_close(ours(images), usual(images), rtol=1e-4, atol=1e-4)
    locked = Locked(nn.BatchNorm2d(8), nn.ReLU())
    patch_norms(locked)
    again = copy.deepcopy(locked)
    assert again.lock is None
    torch.testing.assert_close(again(images), locked(images))


@pytest.mark.parametrize("place", [1, 2])
def test_a_pass_of_one_module_alone_is_run(place: int) -> None:
    usual, ours = sequence(nn.ReLU()), sequence(nn.ReLU())
    patch_norms(ours)
    for model in (usual, ours):
        model[place].forward = torch.tanh  # type: ignore[method-assign]
    images = maps(4, 8, 6, 6)
    torch.testing.assert_close(ours(images), usual(images), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("activation", norm.FUNCTIONS)
def test_gradients_of_what_is_no_number_are_not_hidden(activation: str) -> None:
    images, bias = maps(4, 16, 4, 4), torch.zeros(16)
    bias[3] = torch.nan
    bias.requires_grad_()
    weight = torch.ones(16, requires_grad=True)
    outcomes = []
    for run in (batch_norm, lambda *a: norm.FUNCTIONS[activation](F.batch_norm(*a[:5], True, *a[5:7]))):
        out = run(images, None, None, weight, bias, MOMENTUM, EPS, None, activation)  # type: ignore[operator]
        outcomes.append(torch.autograd.grad(out.sum(), (weight, bias)))
    for got, wanted in zip(*outcomes, strict=True):
        others = torch.arange(16) != 3
        torch.testing.assert_close(got[others], wanted[others], rtol=1e-4, atol=1e-3)
        assert bool(got[3] == 0) <= bool(wanted[3] == 0)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_derivatives_forwards_are_pytorchs() -> None:
    usual, ours = (nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()) for _ in range(2))
    patch_norms(ours)
    images, way = maps(4, 8, 6, 6), maps(4, 8, 6, 6, seed=1)
    tangents = []
    for model in (usual, ours):
        with forward_ad.dual_level():
            tangents.append(forward_ad.unpack_dual(model(forward_ad.make_dual(images, way))).tangent)
    torch.testing.assert_close(*tangents)
