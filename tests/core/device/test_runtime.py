"""The settings of ``runtime:`` that a run computes with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from kd_core.config.runtime import RuntimeSpec
from kd_core.device import runtime
from kd_core.device.kernels.library import can_build
from kd_core.device.runtime import Runtime, reproducible_errors, set_arithmetic
from kd_core.errors import KDError


@pytest.fixture(autouse=True)
def _switches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", torch._C._set_deterministic_algorithms
    )  # imports nothing
    yield
    set_arithmetic(RuntimeSpec())


@pytest.mark.parametrize(("tf32", "products", "convolutions"), [(None, False, True), (True, True, True)])
def test_tf32_is_pytorchs_default_unless_asked(tf32: bool | None, products: bool, convolutions: bool) -> None:
    set_arithmetic(RuntimeSpec(tf32=False))
    assert not torch.backends.cudnn.allow_tf32
    set_arithmetic(RuntimeSpec(tf32=tf32))
    assert torch.backends.cuda.matmul.allow_tf32 is products
    assert torch.backends.cudnn.allow_tf32 is convolutions


def test_reproducible_algorithms_are_asked_for_and_given_up_again() -> None:
    set_arithmetic(RuntimeSpec(deterministic=True))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_arithmetic(RuntimeSpec())
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_an_operation_that_is_not_reproducible_is_named() -> None:
    set_arithmetic(RuntimeSpec(deterministic=True))
    with pytest.raises(KDError, match="put_ is not reproducible here") as caught, reproducible_errors():
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))
    assert "runtime.deterministic" in str(caught.value)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), reproducible_errors():
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"compile": ["student"]}, "CUDA graphs need a CUDA device"),
        ({"device": "cpu", "compile": ["student"]}, "CUDA graphs need a CUDA device"),
        ({}, "CUDA graphs need compiled models: `compile` names none"),
    ],
)
def test_cuda_graphs_are_refused_where_there_are_none(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, object], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KDError, match=message):
        Runtime(RuntimeSpec.model_validate({"cuda_graphs": True, **values}))


def test_fp16_is_refused_on_a_cpu() -> None:
    with pytest.raises(KDError, match="fp16 needs a GPU"):
        Runtime(RuntimeSpec(device="cpu", precision="fp16"))


class Compiled(torch.nn.Module):
    """Keeps how it is compiled."""

    def compile(self, **options: object) -> None:
        self.options = options


@pytest.mark.parametrize(
    ("micro_batches", "keeps_graphs", "graphs"), [(1, False, True), (2, False, False), (1, True, False)]
)
def test_graphs_are_recorded_only_where_a_step_has_one_pass(
    monkeypatch: pytest.MonkeyPatch, micro_batches: int, keeps_graphs: bool, graphs: bool
) -> None:
    began: list[bool] = []
    made = Runtime(RuntimeSpec(device="cpu", compile=["student"]))
    made.spec, made.keeps_graphs = made.spec.model_copy(update={"cuda_graphs": True}), keeps_graphs
    monkeypatch.setattr(runtime.torch.compiler, "cudagraph_mark_step_begin", lambda: began.append(True))
    model = torch.nn.Module()
    model.module = Compiled()
    made.compile({"student": model}, micro_batches=micro_batches)  # type: ignore[dict-item]
    made.begin_step()
    assert model.module.options == {"dynamic": False, **({"mode": "reduce-overhead"} if graphs else {})}
    assert began == [True] * graphs


def test_fast_allows_tf32_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.fast([], 10).tf32 is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    chosen = runtime.fast([], 10)
    assert (chosen.tf32, chosen.precision, chosen.fused_optimizer) == (True, "bf16", True)


def test_a_copy_with_folded_norms_is_scored() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    texts = torch.nn.Sequential(torch.nn.Linear(3, 4))
    assert Runtime(RuntimeSpec(device="cpu")).scored(model) is model
    made = Runtime(RuntimeSpec(device="cpu", fuse_bn=True))
    copied, images = made.scored(model), torch.randn(2, 3, 8, 8)
    assert isinstance(model[1], torch.nn.BatchNorm2d)
    assert isinstance(copied[1], torch.nn.Identity)  # type: ignore[index]
    torch.testing.assert_close(copied(images), model(images))
    assert made.scored(texts) is texts


def test_kernels_need_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KDError, match="there is no C\\+\\+ compiler here"):
        Runtime(RuntimeSpec(device="cpu", cpu_kernels=["student"]))
    assert runtime.fast(["student"], 10).cpu_kernels == []


@pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
def test_kernels_are_for_what_learns_on_a_cpu() -> None:
    model = torch.nn.Module()
    model.module = Compiled()
    model.module.norm = torch.nn.BatchNorm2d(4)
    made = Runtime(RuntimeSpec(device="cpu", cpu_kernels=["student", "teacher"]))
    made.compile({"student": model, "teacher": model}, {"student"})  # type: ignore[dict-item]
    assert model.module.options["backend"].keywords == {"inductor": False}
    assert made.traces("student", model.module, learns=True)
    assert not made.traces("teacher", model.module, learns=False)
