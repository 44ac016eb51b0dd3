"""A model's classes in the order of the data's: matched by name, and its classifier's rows put in that order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kd_core.errors import KDError

if TYPE_CHECKING:
    from torch import nn


def names_of(config: Any) -> tuple[str, ...] | None:
    """The names of a transformers config's classes in the order of its outputs, None where it does not name them.

    ``LABEL_0``, ``LABEL_1`` are what the library writes for classes without names; bare numbers say no more.
    """
    id2label = config.id2label or {}
    names = tuple(str(id2label[index]) for index in sorted(id2label))
    generic = all(name.casefold() in (f"label_{index}", str(index)) for index, name in enumerate(names))
    return None if generic else names


def order_of(model_classes: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """For each of ``classes``, which of ``model_classes`` it is; None where they are not the same names.

    Case, ``-``, ``_`` and spaces make no difference, unless names differ by these alone.
    """
    for key in (str, normalized_name):
        left, right = [key(name) for name in model_classes], [key(name) for name in classes]
        if len(set(left)) == len(left) and len(set(right)) == len(right) and set(left) == set(right):
            return [left.index(name) for name in right]
    return None


def normalized_name(name: str) -> str:
    """A name without case, ``-``, ``_`` and spaces."""
    return re.sub(r"[-_\s]", "", name).casefold()


def check_count(labels: Sequence[str] | None, outputs: int) -> None:
    """KDError where a config names more or fewer classes than a model has outputs."""
    if labels is not None and len(labels) != outputs:
        raise KDError(f"{len(labels)} names ({', '.join(labels)}) for a model of {outputs} outputs", path="labels")


def label_mismatch_error(name: str, model_classes: Sequence[str], classes: Sequence[str]) -> KDError:
    """The error for a model whose classes are not those of the data."""
    return KDError(
        f"{name} was trained for the classes {', '.join(model_classes)},"
        f" and the data have the classes {', '.join(classes)}",
        hint="if they are the same by other names, `labels: [...]` gives the data's names in the order of the"
        " model's outputs",
    )


def classifier_of(model: nn.Module, width: int) -> nn.Linear | nn.Conv2d:
    """The layer that gives the logits: the last one outside the encoder with ``width`` outputs."""
    from torch import nn

    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and len(module.weight) == width and not in_base(model, name)
    ]
    if not layers:
        raise KDError(f"{type(model).__name__} has no layer of {width} outputs that classifies")
    return layers[-1]


def in_base(model: nn.Module, name: str) -> bool:
    """Whether a module or parameter belongs to the encoder, not to what stands upon it."""
    return name.startswith(f"{getattr(model, 'base_model_prefix', '')}.")


def permute(layer: nn.Linear | nn.Conv2d, order: Sequence[int]) -> None:
    """Give a layer its outputs in another order: output i is what was output ``order[i]``."""
    with torch.no_grad():
        for parameter in (layer.weight, layer.bias):
            if parameter is not None:
                parameter.copy_(parameter[list(order)].clone())


def reinitialize(layer: nn.Linear | nn.Conv2d, std: float) -> None:
    """Random weights and no bias, as transformers begins a classifier."""
    from torch import nn

    nn.init.normal_(layer.weight, std=std)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
