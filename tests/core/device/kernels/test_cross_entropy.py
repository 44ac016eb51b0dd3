"""Cross-entropy of maps by a kernel, beside PyTorch's in double precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.kernels import cross_entropy as kernels
from kd_core.device.kernels import library
from kd_core.device.kernels.library import can_build
from kd_core.errors import KDError
from kd_core.losses.logits import cross_entropy

pytestmark = pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
NONE = -100


@pytest.fixture(autouse=True)
def _in_use() -> Iterator[None]:
    library.use(True)
    yield
    library.use(False)


def logits(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * scale
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()


def labels(batch: int, classes: int, height: int, width: int) -> Tensor:
    drawn = torch.randint(0, classes, (batch, height, width), generator=torch.Generator().manual_seed(1))
    drawn[:, :2, 1:] = NONE
    return drawn


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("classes", [2, 3, 15, 16, 17, 21, 32, 150])
@pytest.mark.parametrize(("height", "width"), [(3, 1), (5, 7), (40, 33)])
def test_value_and_gradient_are_pytorchs(classes: int, height: int, width: int, dtype: torch.dtype) -> None:
    maps, target = logits(2, classes, height, width, dtype=dtype), labels(2, classes, height, width)
    assert kernels.fits(maps, target)
    exact = maps.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, target, ignore_index=NONE)
    (wanted,) = torch.autograd.grad(expected * 3, exact)
    loss = cross_entropy(maps, target)
    (gradient,) = torch.autograd.grad(loss * 3, maps)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-7)
    assert gradient.dtype is dtype
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    assert (gradient.double() - wanted).norm() <= (1e-6 if dtype is torch.float32 else 4e-3) * wanted.norm()
    assert not gradient.movedim(1, -1)[target == NONE].any()


def test_no_label_is_a_loss_of_zero() -> None:
    maps = logits(2, 5, 4, 4)
    loss = cross_entropy(maps, torch.full((2, 4, 4), NONE))
    loss.backward()
    assert loss.item() == 0
    assert maps.grad is not None
    assert not maps.grad.any()


@pytest.mark.parametrize("wrong", [5, 7, -1, -2])
def test_a_label_that_is_no_class_is_an_error(wrong: int) -> None:
    target = labels(2, 5, 4, 4)
    target[1, 3, 3] = wrong
    with pytest.raises(KDError, match=f"a label that is not below 5, student's classes: target {wrong} is out of"):
        cross_entropy(logits(2, 5, 4, 4), target)


def test_masked_classes_and_what_is_no_number_are_as_in_pytorch() -> None:
    maps, target = logits(1, 20, 2, 3).detach(), torch.tensor([[[1, 1, 1], [1, NONE, 1]]])
    maps[0, 4] = -torch.inf
    maps[0, :, 1, 1] = torch.nan  # not labelled
    torch.testing.assert_close(cross_entropy(maps, target), cross_entropy(maps.contiguous(), target))
    maps[0, 1, 0, 0] = -torch.inf
    assert cross_entropy(maps, target).item() == torch.inf
    for wrong in (torch.nan, -torch.nan):
        maps[0, 2, 0, 1] = wrong
        assert cross_entropy(maps, target).isnan()


def test_the_mean_does_not_depend_on_threads() -> None:
    maps, target, threads = logits(4, 7, 64, 64), labels(4, 7, 64, 64), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = cross_entropy(maps, target)
        torch.set_num_threads(2)
        assert torch.equal(cross_entropy(maps, target), alone)
    finally:
        torch.set_num_threads(threads)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    maps = logits(1, 3, 4, 4)
    (gradient,) = torch.autograd.grad(cross_entropy(maps, labels(1, 3, 4, 4)), maps, create_graph=True)
    with pytest.raises(KDError, match="has no gradient itself"):
        (gradient**2).sum().backward()


@pytest.mark.parametrize("case", ["layout", "type", "weights", "smoothing", "probabilities", "classes", "switch"])
def test_what_has_no_kernel_is_pytorchs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*inputs: object) -> None:
        raise AssertionError("the kernel")

    monkeypatch.setattr(kernels, "cross_entropy", called)
    maps, target, options = logits(2, 5, 4, 4).detach(), labels(2, 5, 4, 4), {}
    if case == "layout":
        maps = maps.contiguous()
    elif case == "type":
        maps = maps.double()
    elif case == "weights":
        options = {"class_weights": [1.0] * 5}
    elif case == "smoothing":
        options = {"label_smoothing": 0.1}
    elif case == "probabilities":
        target = maps.softmax(1)
    elif case == "classes":
        maps, target = maps[:, :, 0, 0], target[:, 3, 3]
    else:
        library.use(False)
    assert cross_entropy(maps, target, **options).isfinite()  # type: ignore[arg-type]
