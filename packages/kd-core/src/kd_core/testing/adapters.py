"""What every adapter keeps: :data:`ADAPTER_CHECKS`, each a function of an :class:`AdapterCase`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.adapters.registry import ADAPTERS, Adapter, validate_adapter
from kd_core.testing.require import no_error, require, run_all

ROWS = 4
"""Samples in the batch that an adapter is tested on."""


@dataclass(frozen=True)
class AdapterCase:
    """An adapter's builder, by itself or by its registered name, and what it is tested on.

    ``inputs`` are the shapes of its inputs without the batch dimension, in order. ``match`` is the shape of the tensor
    that its output is to be like and ``out_features`` the width that it is to have, as in a config. ``values`` are
    hyperparameters.
    """

    adapter: Adapter | str
    inputs: Sequence[tuple[int, ...]]
    match: tuple[int, ...] | None = None
    out_features: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def builder(self) -> Adapter:
        """The builder itself; KDError where no adapter has that name."""
        return ADAPTERS.get(self.adapter) if isinstance(self.adapter, str) else self.adapter

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.adapter if isinstance(self.adapter, str) else getattr(self.adapter, "__name__", repr(self.adapter))

    def build(self, device: str = "meta") -> nn.Module:
        """A new module, from tensors of the right shapes on ``device``."""
        inputs = [torch.empty(ROWS, *shape, device=device) for shape in self.inputs]
        match = None if self.match is None else torch.empty(ROWS, *self.match, device=device)
        return self.builder(inputs, match, self.out_features, **self.values)

    def tensors(self) -> list[Tensor]:
        """Random inputs that get a gradient, the same at every call."""
        random = torch.Generator().manual_seed(0)
        return [torch.randn(ROWS, *shape, generator=random).requires_grad_() for shape in self.inputs]


def can_be_registered(case: AdapterCase) -> None:
    """Its parameters can be written in a config."""
    builder = case.builder
    with no_error(f"the adapter {case.name} cannot be registered"):
        validate_adapter(case.name, builder)


def builds_from_shapes_alone(case: AdapterCase) -> None:
    """``check`` builds it from meta tensors, which have no numbers; its parameters lie on the CPU all the same."""
    with no_error(f"the adapter {case.name} cannot be built from meta tensors: it may read shapes only"):
        module = case.build()
    devices = {parameter.device.type for parameter in module.parameters()}
    require(devices <= {"cpu"}, f"the parameters of {case.name} lie on {devices}, not on the CPU")


def output_has_the_shape_asked_for(case: AdapterCase) -> None:
    """That of ``match``, with the width ``out_features`` where that is given; one tensor for each sample."""
    output = case.build()(*case.tensors())
    require(isinstance(output, Tensor), f"the adapter {case.name} returns {type(output).__name__}, not a tensor")
    shape = tuple(output.shape)
    require(shape[:1] == (ROWS,), f"the adapter {case.name} makes the shape {shape} of {ROWS} samples")
    if case.out_features is not None:
        widths = {output.shape[1], output.shape[-1]}
        require(case.out_features in widths, f"the adapter {case.name} makes {shape}, not {case.out_features} features")
    elif case.match is not None:
        expected = (ROWS, *case.match)
        require(shape == expected, f"the adapter {case.name} makes the shape {shape}, not {expected} as `match` has it")


def weights_are_a_function_of_the_seed(case: AdapterCase) -> None:
    """Equal seeds give equal parameters."""
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        states.append(case.build().state_dict())
    first, second = states
    differ = [key for key, value in first.items() if not torch.equal(value, second[key])]
    require(not differ, f"the parameters {differ} of {case.name} are not a function of the seed")


def every_parameter_gets_a_gradient(case: AdapterCase) -> None:
    """And so does what is before the adapter: it detaches no input."""
    module, inputs = case.build(), case.tensors()
    module(*inputs).square().sum().backward()
    idle = [key for key, value in module.named_parameters() if value.requires_grad and value.grad is None]
    require(not idle, f"the parameters {idle} of {case.name} get no gradient")
    detached = [number for number, tensor in enumerate(inputs) if tensor.grad is None]
    require(not detached, f"the adapter {case.name} gives its inputs {detached} no gradient")


def reads_no_number_back(case: AdapterCase) -> None:
    """On a GPU that waits for the device. Meta tensors have no numbers: ``.item()`` or ``if tensor`` fails on them."""
    module = case.build().to("meta")
    inputs = [tensor.detach().to("meta") for tensor in case.tensors()]
    with no_error(
        f"the adapter {case.name} reads numbers of its inputs (.item(), if tensor:) or has tensors elsewhere"
    ):
        module(*inputs)


ADAPTER_CHECKS: tuple[Callable[[AdapterCase], None], ...] = (
    can_be_registered,
    builds_from_shapes_alone,
    output_has_the_shape_asked_for,
    weights_are_a_function_of_the_seed,
    every_parameter_gets_a_gradient,
    reads_no_number_back,
)
"""What every adapter keeps, each as a function that raises AssertionError."""


def check_adapter(
    adapter: Adapter | str,
    inputs: Sequence[tuple[int, ...]],
    *,
    match: tuple[int, ...] | None = None,
    out_features: int | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Run :data:`ADAPTER_CHECKS` on an adapter's builder, or on the registered one of that name.

    The parameters are the fields of :class:`AdapterCase`. AssertionError says what the adapter does not keep::

        check_adapter("bottleneck", [(8, 4, 4)], match=(5, 4, 4))
    """
    run_all(ADAPTER_CHECKS, AdapterCase(adapter, inputs, match, out_features, values or {}))
