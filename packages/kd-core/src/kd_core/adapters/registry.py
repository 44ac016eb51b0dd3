"""The registry of adapters: what may be registered, and the words for what their inputs look like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from kd_core.config.calls.allowed import allow
from kd_core.errors import KDError
from kd_core.registry import Registry, owner_of
from kd_core.signatures import is_open, is_value, over_batch, parameters, refuse

__all__ = [
    "ADAPTERS",
    "Adapter",
    "CountsSteps",
    "feature_map",
    "over_batch",
    "shape",
    "shaped",
    "tensors",
    "validate_adapter",
    "width_of",
]

Adapter = Callable[..., nn.Module]
"""``(inputs, match, out_features, *, values...) -> nn.Module``: what ADAPTERS holds.

``inputs`` are the probe batch's tensors at the adapter's wires: a list in the order of the config, whose items the
module's ``forward`` takes one by one, or, where the config's ``inputs`` is a mapping, a mapping of the same names,
which ``forward`` takes as keyword arguments; an item is a list of tensors where the config has a list of wires there.
``match`` is the tensor whose shape the output is to have (None: not given) and ``out_features`` its width. Only shapes
should be read: in a check the probe lies on the meta device, and only if building fails there does the builder get
tensors with random values. The module may have lazy layers. :func:`over_batch` marks a builder, or the class of its
module, that needs the samples of all processes; a module that draws once a step :class:`CountsSteps`.
"""

GIVEN = ("inputs", "match", "out_features")
"""A builder's positional parameters."""


@runtime_checkable
class CountsSteps(Protocol):
    """A module that is told of each step of the stages that it takes part in.

    A ``forward`` may be one of several micro-batches, or a trial before the first step: it changes no such count.
    """

    def after_step(self) -> None:
        """Note that the optimiser has stepped."""
        ...


def validate_adapter(name: str, builder: Adapter) -> None:
    """KDError where ``builder`` cannot be named in a config. Called by every registration."""
    declared = parameters(builder)
    inputs = tuple(str(p) if is_open(p) else p.name for p in declared if not is_value(p))
    if inputs != GIVEN:
        raise KDError(
            f"adapter {name!r}, {owner_of(builder)}, must take ({', '.join(GIVEN)}, *, ...), not ({', '.join(inputs)})"
        )
    refuse("adapter", name, builder, [p for p in declared if is_value(p)])


ADAPTERS: Registry[Adapter] = Registry("adapter", "kd.adapters", validate_adapter)


def tensors(name: str, inputs: list[Tensor], match: Tensor | None, *, most: int = 1) -> list[Tensor]:
    """``inputs`` of the adapter ``name``; KDError where they are named, too many, or no tensors."""
    if isinstance(inputs, Mapping):
        raise KDError(
            f"{name} takes its inputs in order, not by name", hint="write `inputs: [WIRE, ...]`", path="inputs"
        )
    if not 1 <= len(inputs) <= most:
        count = "one input" if most == 1 else f"one to {most} inputs"
        raise KDError(f"{name} takes {count}, not {len(inputs)}")
    for role, tensor in [*(("input", source) for source in inputs), ("match", match)]:
        if tensor is not None and not isinstance(tensor, Tensor):
            raise KDError(
                f"{name}'s {role} is a {type(tensor).__name__}, not a tensor", hint="take one out of it with /FIELD"
            )
    return inputs


def feature_map(name: str, source: Tensor) -> Tensor:
    """``source`` where it is (B, C, H, W), else a KDError."""
    if source.ndim != 4:
        raise KDError(f"{name} takes feature maps (B, C, H, W), not {shape(source)}")
    return source


def width_of(name: str, match: Tensor | None, out_features: int | None) -> int:
    """``out_features``, else the channels of ``match``; KDError where neither is given or there is none."""
    if out_features is None and match is None:
        raise KDError(f"{name} has no output width", hint="write `match:` (a wire) or `out_features:` (a number)")
    if out_features is not None and out_features < 1:
        raise KDError(f"out_features is {out_features}, but must be a width of at least 1", path="out_features")
    return out_features if out_features is not None else match.shape[1]  # type: ignore[union-attr]


def shape(tensor: Tensor) -> str:
    """``(2, 3)``."""
    return str(tuple(tensor.shape))


@allow
def shaped(
    *,
    module: str,
    inputs: Sequence[Sequence[int]],
    match: Sequence[int] | None = None,
    out_features: int | None = None,
    **values: Any,
) -> nn.Module:
    """The registered adapter ``module`` for inputs of these shapes: how a saved model names one that is a part of it.

    ``match`` is the shape that its output is to have; ``values`` are the adapter's own parameters.
    """
    builder = ADAPTERS.get(module)
    like = None if match is None else torch.zeros(*match)
    return builder([torch.zeros(*one) for one in inputs], like, out_features, **values)
