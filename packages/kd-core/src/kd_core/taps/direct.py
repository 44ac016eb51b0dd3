"""Tensors inside any module, without a config: what a notebook or a script asks of a model that it already has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from kd_core.errors import KDError
from kd_core.taps.inference import know_landmarks
from kd_core.taps.table import module_table, table_text
from kd_core.taps.wires import Tap, Wire, parse_wire, pick
from kd_core.taps.wrappers import ForwardWrapper

MODEL = "model"


def capture(model: nn.Module, inputs: Any, places: Iterable[str]) -> dict[str, Any]:
    """What passes through ``model`` at some places in one forward pass, by the names of the places.

    A place is a wire without its model (``layer1``, ``fc:in``, ``output/logits``, ``@features/0``), or with ``model.``
    before it. ``inputs`` that are a mapping are passed as keywords. The pass is one of evaluation, without gradients,
    and the model is left as it was. ConfigError where the model has no such place.
    """
    if isinstance(places, str):
        raise KDError(f"places must be a list, not {places!r}", hint=f"write [{places!r}]")
    wires = {place: _wire(place) for place in places}
    with _evaluated(model), torch.no_grad():
        if any(wire.tap is not None and wire.tap.is_landmark for wire in wires.values()):
            know_landmarks(model, _call, inputs)
        wrapper = ForwardWrapper(model, [wire.tap or Tap("") for wire in wires.values()], name=MODEL, call=_call)
        try:
            captured = wrapper(inputs)
        finally:
            wrapper.release()
    return {place: pick(captured.at[wire.tap or Tap("")], wire.fields) for place, wire in wires.items()}


def overview(model: nn.Module, inputs: Any, width: int = 100) -> str:
    """The table of a model's modules, with the shapes that pass through them, that the command ``taps`` prints."""
    return table_text(module_table(model, inputs, _call), width)


def _wire(place: str) -> Wire:
    if not isinstance(place, str):
        raise KDError(f"a place must be a string, not {place!r}")
    return parse_wire(place if place.startswith(f"{MODEL}.") else f"{MODEL}.{place}", [MODEL])


def _call(model: nn.Module, inputs: Any) -> Any:
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; afterwards each of its modules is in the mode that it had."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
