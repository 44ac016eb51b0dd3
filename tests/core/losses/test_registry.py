"""What a loss's signature says, and which losses may be registered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kd_core import losses
from kd_core.errors import KDError
from kd_core.losses import loss_signature
from kd_core.losses.registry import validate_loss
from kd_core.ranges import PositiveFloat
from kd_core.registry import Registry
from kd_core.signatures import single_tensors


class Learned(nn.Module):
    def __init__(self, *, width: int, rate: float = 0.1) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), rate))

    def forward(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
        return (self.scale * (student - teacher)).mean()


def test_signature_of_a_function() -> None:
    found = loss_signature(losses.kd)
    assert (found.wires, found.optional_wires, list(found.values)) == (
        ("student", "teacher", "mask"),
        ("mask",),
        ["temperature", "dim", "standardize"],
    )
    assert found.values["temperature"].annotation == PositiveFloat
    assert found.values["temperature"].default == 4.0


def test_signature_of_a_module_class_and_of_a_module() -> None:
    wires = ("student", "teacher", "mask")
    found = loss_signature(Learned)
    assert (found.wires, found.optional_wires, list(found.values)) == (wires, ("mask",), ["width", "rate"])
    found = loss_signature(Learned(width=3))
    assert (found.wires, found.optional_wires, list(found.values)) == (wires, ("mask",), [])


@pytest.mark.parametrize("name", sorted(name for name in dir(nn) if name.endswith("Loss")))
def test_signature_of_every_torch_loss(name: str) -> None:
    loss = getattr(nn, name)
    assert len(loss_signature(loss).wires) >= 2
    if all(value.default is not value.empty for value in loss_signature(loss).values.values()):
        assert loss_signature(loss()).wires == loss_signature(loss).wires


def test_signature_refuses_what_hides_its_tensors() -> None:
    class Hidden(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return tensors[0]

    for loss in (Hidden, Hidden(), nn.Module(), lambda *, p: p, 3, dict):
        with pytest.raises(KDError):
            loss_signature(loss)
    with pytest.raises(KDError, match=r"Hidden.*\*tensors"):
        loss_signature(Hidden)


def reserved(student: Tensor, *, weight: float) -> Tensor: ...
def unannotated(student: Tensor, teacher) -> Tensor: ...  # type: ignore[no-untyped-def]
def variadic(*tensors: Tensor) -> Tensor: ...
def keywords(student: Tensor, **more: float) -> Tensor: ...
def positional(student: Tensor, /) -> Tensor: ...
def valueless(*, temperature: float) -> Tensor: ...


class PositionalValues(nn.Module):
    def __init__(self, width: int) -> None: ...
    def forward(self, student: Tensor) -> Tensor: ...


class Ambiguous(nn.Module):
    def __init__(self, *, student: int) -> None: ...
    def forward(self, student: Tensor) -> Tensor: ...


class ReservedWire(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor: ...


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (reserved, "'weight' is a reserved word"),
        (unannotated, "'teacher' has no annotation"),
        (variadic, r"\*tensors"),
        (keywords, r"\*\*more"),
        (positional, "'student' is positional-only"),
        (valueless, "does not name the tensors it takes"),
        (PositionalValues, "keyword-only.*: width"),
        (Ambiguous, "named unlike forward's tensors: student"),
        (ReservedWire, "'inputs' is a reserved word"),
    ],
)
def test_registration_refuses_and_names_the_culprit(loss: Callable[..., Tensor], message: str) -> None:
    registry = Registry[Callable[..., Tensor]]("loss", "kd.none", validate_loss)
    with pytest.raises(KDError, match=message) as caught:
        registry("mine")(loss)
    assert loss.__qualname__ in str(caught.value)
    assert "mine" not in registry


def test_registration_accepts_functions_and_modules() -> None:
    registry = Registry[Callable[..., Tensor]]("loss", "kd.none", validate_loss)
    registry("learned")(Learned)
    registry("kd")(losses.kd)
    assert registry.names() == ["kd", "learned"]
    with pytest.raises(KDError, match=r"(?s)'kd_'.*did you mean 'kd'"):
        registry.get("kd_")


def test_which_tensors_a_loss_takes_one_by_one_is_read_off_its_annotations() -> None:
    def loss(one: Tensor, maybe: Tensor | None, several: list[Tensor], either: Tensor | list[Tensor]) -> Tensor:
        return one

    assert single_tensors(loss) == {"one", "maybe"}
