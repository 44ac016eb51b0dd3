"""The registry of losses, and what a loss's signature says: which parameters are wires, which are values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.registry import Registry, owner_of
from kd_core.signatures import FROM_INPUTS, is_open, is_value, parameters, refuse, values_of

__all__ = ["LOSSES", "Loss", "LossSignature", "loss_signature", "validate_loss"]

Loss = Callable[..., Tensor] | type[nn.Module]
"""A function of tensors that returns a scalar, or an ``nn.Module`` class where there are parameters or state.

A class with layers whose widths follow from its inputs has lazy ones (``nn.LazyLinear``), which one pass over the probe
batch gives their shapes, or a class method ``from_inputs(cls, inputs, *, values...)`` that builds it: ``inputs`` maps
the names of the wires that a config gives to the probe batch's tensors, of which only shapes and types may be read.
"""


@dataclass(frozen=True)
class LossSignature:
    """``wires`` are the names of the tensors a loss takes, in order; those in ``optional_wires`` may be left out.

    ``values`` are its hyperparameters by name: annotation, and default where there is one.
    """

    wires: tuple[str, ...]
    optional_wires: tuple[str, ...]
    values: Mapping[str, inspect.Parameter]


def loss_signature(loss: object) -> LossSignature:
    """What ``loss`` takes: a function, an ``nn.Module`` class, or a module already built (which takes no values).

    Positional parameters of the function or of ``forward`` are wires. Values are a function's keyword-only
    parameters, or all parameters of ``__init__`` (of ``from_inputs``, where a class has one, the keyword-only ones).
    KDError where ``forward`` takes ``*args`` or ``**kwargs``.
    """
    if isinstance(loss, nn.Module):
        return _from(loss, parameters(type(loss).forward, bound=True), [])
    if inspect.isclass(loss) and issubclass(loss, nn.Module):
        values = values_of(loss).values() if hasattr(loss, FROM_INPUTS) else parameters(loss.__init__, bound=True)
        return _from(loss, parameters(loss.forward, bound=True), list(values))
    if not callable(loss) or inspect.isclass(loss):
        raise KDError(f"{owner_of(loss)} is neither a function nor an nn.Module")
    declared = parameters(loss)
    return _from(loss, [p for p in declared if not is_value(p)], [p for p in declared if is_value(p)])


def _from(loss: object, wires: list[inspect.Parameter], values: list[inspect.Parameter]) -> LossSignature:
    opened = [str(wire) for wire in wires if is_open(wire)]
    if opened or not wires:
        raise KDError(f"{owner_of(loss)} does not name the tensors it takes ({', '.join(opened) or 'none at all'})")
    return LossSignature(
        wires=tuple(wire.name for wire in wires),
        optional_wires=tuple(wire.name for wire in wires if wire.default is not wire.empty),
        values={value.name: value for value in values if not is_open(value)},
    )


def validate_loss(name: str, loss: Loss) -> None:
    """KDError where ``loss`` cannot be named in a config. Called by every registration."""
    if not inspect.isclass(loss):
        refuse("loss", name, loss, parameters(loss))
    elif issubclass(loss, nn.Module):
        _check_class(name, loss)
    loss_signature(loss)


def _check_class(name: str, loss: type[nn.Module]) -> None:
    """KDError where a class's tensors and hyperparameters cannot be told apart."""
    wires = parameters(loss.forward, bound=True)
    method, values = "__init__", parameters(loss.__init__, bound=True)
    if hasattr(loss, FROM_INPUTS):
        method, values = FROM_INPUTS, parameters(getattr(loss, FROM_INPUTS))
        if not values or values.pop(0).name != "inputs":
            raise KDError(f"loss {name!r}, {owner_of(loss)}, must have from_inputs(cls, inputs, *, ...)")
    refuse("loss", name, loss, [*wires, *values])
    wrong = [p.name for p in values if not is_value(p) or p.name in {wire.name for wire in wires}]
    if wrong:
        rule = f"{method} takes values, keyword-only and named unlike forward's tensors"
        raise KDError(f"loss {name!r}, {owner_of(loss)}, cannot be registered: {rule}: {', '.join(wrong)}")


LOSSES: Registry[Loss] = Registry("loss", "kd.losses", validate_loss)
