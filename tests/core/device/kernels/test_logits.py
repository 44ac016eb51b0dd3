"""Cross-entropy and divergence of maps by kernels, beside PyTorch's in double precision."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.device.kernels import library
from kd_core.device.kernels import logits as kernels
from kd_core.device.kernels.library import can_build
from kd_core.errors import KDError
from kd_core.losses.logits import cross_entropy, kd
from kd_core.losses.softened import soft_divergence

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


@pytest.mark.parametrize("loss", [cross_entropy, kd])
def test_a_gradient_of_the_gradient_is_refused(loss: Any) -> None:
    maps = logits(1, 3, 4, 4)
    other = labels(1, 3, 4, 4) if loss is cross_entropy else maps.detach() * 2
    (gradient,) = torch.autograd.grad(loss(maps, other), maps, create_graph=True)
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


@pytest.mark.parametrize("dtypes", ["float32", "bfloat16", "mixed"])
@pytest.mark.parametrize("classes", [2, 15, 16, 17, 21, 40])
@pytest.mark.parametrize(("masked", "temperature"), [(False, 1.0), (True, 4.0)])
def test_the_divergence_and_its_gradient_are_pytorchs(
    classes: int, masked: bool, temperature: float, dtypes: str
) -> None:
    kind = torch.bfloat16 if dtypes == "bfloat16" else torch.float32
    student = logits(2, classes, 37, 30, dtype=kind)
    teacher = (logits(2, classes, 37, 30).detach().flip(1, 2) * 2).to(
        torch.float32 if dtypes == "float32" else torch.bfloat16
    )
    mask = labels(2, 2, 37, 30) == 1 if masked else None
    exact = student.detach().double().requires_grad_()
    expected = soft_divergence(exact, teacher.double(), mask, temperature, 1)
    (wanted,) = torch.autograd.grad(expected * 3, exact)
    assert kernels.fits(student, teacher)
    loss = kd(student, teacher, mask, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss * 3, student)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-7)
    assert gradient.dtype is kind
    assert (gradient.double() - wanted).norm() <= (2e-6 if kind is torch.float32 else 4e-3) * wanted.norm()
    if mask is not None:
        assert not gradient.movedim(1, -1)[~mask].any()


def test_divergences_of_masked_classes_are_as_without_kernels() -> None:
    student, teacher = logits(1, 20, 2, 3).detach(), logits(1, 20, 2, 3).detach().flip(1)
    student[0, 4] = teacher[0, 4] = teacher[0, 5] = -torch.inf
    student[0, :, 0, 0] = torch.nan
    mask = torch.ones(1, 2, 3)
    mask[0, 0, 0] = 0
    teacher = teacher.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(kd(student, teacher, mask), kd(student.contiguous(), teacher.contiguous(), mask))
    assert kd(student, teacher).isnan()
    student[0, 6, 1, 1] = -torch.inf
    assert kd(student, teacher, mask).item() == torch.inf
    assert kd(student, teacher, torch.zeros(1, 2, 3)).item() == 0


@pytest.mark.parametrize("case", ["dim", "standardize", "teacher learns", "three dimensions"])
def test_divergences_without_a_kernel_are_pytorchs(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(*inputs: object) -> None:
        raise AssertionError("the kernel")

    monkeypatch.setattr(kernels, "divergence", called)
    student, teacher, options = logits(2, 5, 4, 4), logits(2, 5, 4, 4).detach() * 2, {}
    if case == "dim":
        options = {"dim": 2}
    elif case == "standardize":
        options = {"standardize": True}
    elif case == "teacher learns":
        teacher.requires_grad_()
    else:
        student, teacher = student.detach()[..., 0], teacher[..., 0]
    assert kd(student, teacher, **options).isfinite()  # type: ignore[arg-type]


def test_wrong_shapes_are_the_same_errors() -> None:
    for student, teacher, mask, message in [
        (logits(2, 5, 4, 4), logits(2, 6, 4, 4), None, "must have the same shape"),
        (logits(2, 5, 4, 4), torch.zeros(2, 4, 4), None, "must have the same shape"),
        (logits(2, 1, 4, 4), logits(2, 1, 4, 4), None, "kd of one class"),
        (logits(2, 5, 4, 4), logits(2, 5, 4, 4), torch.ones(2, 4), "does not fit student"),
    ]:
        with pytest.raises(KDError, match=message):
            kd(student, teacher.detach(), mask)


@pytest.mark.parametrize("value", [torch.finfo(torch.float32).min, -2e30, 1e4, torch.finfo(torch.float32).max])
def test_large_logits_are_as_exact_as_small_ones(value: float) -> None:
    maps = torch.full((1, 21, 2, 3), value).contiguous(memory_format=torch.channels_last).requires_grad_()
    target = torch.zeros(1, 2, 3, dtype=torch.int64)
    loss = cross_entropy(maps, target)
    (gradient,) = torch.autograd.grad(loss, maps)
    torch.testing.assert_close(loss, torch.tensor(21.0).log())
    torch.testing.assert_close(gradient[0, 1], torch.full((2, 3), 1 / 21 / 6))
    small = logits(1, 21, 2, 3).detach()
    divergence = kd(small, maps.detach(), temperature=1.0)
    torch.testing.assert_close(divergence, kd(small.contiguous(), maps.detach().contiguous(), temperature=1.0))


def test_probabilities_are_compared_in_float32_whatever_the_logits_are() -> None:
    maps = logits(2, 21, 8, 8, dtype=torch.bfloat16).detach()
    target = logits(2, 21, 8, 8).detach().softmax(1)
    loss = cross_entropy(maps, target)
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, cross_entropy(maps.float().contiguous(), target))


def test_no_pixels_are_as_without_kernels() -> None:
    maps = torch.zeros(0, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert kd(maps, maps).isnan()
    assert cross_entropy(maps, torch.zeros(0, 4, 4, dtype=torch.int64)) == 0
