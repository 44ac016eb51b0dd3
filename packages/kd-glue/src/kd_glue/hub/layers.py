"""A smaller model out of some layers of a larger one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kd_core.errors import KDError

COUNTS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
"""Attributes in which encoders keep how many layers they have."""
INDICES = ("layer_idx", "layer_id", "layer_index", "layer_number")
"""Attributes in which a layer's modules keep which one it is."""


def keep_layers(model: nn.Module, layers: Sequence[int], name: str) -> None:
    """Leave ``layers`` of a transformers model (0 is the first, -1 the last) in their order, in place.

    The config says so too: the model is then saved and loaded as any other. KDError where a layer is not there, or
    the architecture is not a plain stack of layers.
    """
    config: Any = model.config
    path, stack = stack_of(model, name)
    count = len(stack)
    positions = indices(layers, count)
    for at, layer in enumerate(chosen := [stack[position] for position in positions]):
        for module in layer.modules():
            set_attributes(module, INDICES, positions[at], at)
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], nn.ModuleList(chosen))
    set_attributes(parent, COUNTS, count, len(positions))
    per_layer = {
        key: [value[position] for position in positions]
        for key, value in vars(config).items()
        if key.endswith("layer_types") and isinstance(value, (list, tuple)) and len(value) == count
    }
    config.num_hidden_layers = len(positions)
    for key, value in per_layer.items():
        setattr(config, key, value)
    _same_as_new(model, name, positions)


def indices(layers: Sequence[int], count: int) -> list[int]:
    """Layers counted from 0, negative ones from the end; KDError where one is not there, or stands there twice."""
    if not layers:
        raise KDError("at least one layer must be kept", path="layers")
    for layer in layers:
        if not -count <= layer < count:
            raise KDError(f"there is no layer {layer}: they are 0 to {count - 1} (or -{count} to -1)", path="layers")
    positions = [layer % count for layer in layers]
    if len(set(positions)) < len(positions):
        raise KDError(f"{list(layers)} has a layer twice", path="layers")
    return positions


def stack_of(model: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    """The encoder's layers with their path; KDError where they are not one list of different layers."""
    config: Any = model.config
    count = config.num_hidden_layers
    stacks = [
        (path, module)
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    outer = [stack for stack in stacks if not any(stack[0].startswith(f"{path}.") for path, _ in stacks)]
    if config.model_type == "albert" or len(outer) != 1 or getattr(config, "is_encoder_decoder", False):
        raise KDError(
            f"{name} ({config.model_type}) is not a stack of separate layers, of which some could be kept",
            path="layers",
        )
    return outer[0]


def set_attributes(module: nn.Module, names: Sequence[str], old: int, new: int) -> None:
    """Set those of a module's attributes ``names`` that are ``old`` to ``new``."""
    for name in names:
        if vars(module).get(name) == old and isinstance(vars(module)[name], int):
            setattr(module, name, new)


def _same_as_new(model: nn.Module, name: str, positions: Sequence[int]) -> None:
    """KDError where the config would not make a model of these parameters: its layers depend on their place."""
    with torch.device("meta"):
        new = type(model)(model.config)
    if shapes(model.state_dict()) != shapes(new.state_dict()):
        raise KDError(
            f"the layers of {name} ({type(model).__name__}) differ by their place, and {list(positions)} do not"
            " make a model of the same kind",
            path="layers",
        )


def shapes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {key: value.shape for key, value in state.items()}
