"""Lazy modules: layers that get their shapes from the first values they see (``nn.LazyLinear``)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy

from kd_core.errors import KDError


def has_lazy(module: nn.Module) -> bool:
    """Whether a parameter or buffer of ``module`` has no shape yet."""
    return any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers()))


def materialize(module: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Give the lazy layers of ``module`` the shapes that a call with these arguments asks for, and initial values.

    The call runs without gradients on a copy, of which the module takes over its lazy layers only: what else the copy
    counted or kept in a memory is lost with it. KDError where a layer is still without a shape.
    """
    for training in (False, True):  # a batch norm's statistics do not move in evaluation mode
        if has_lazy(module):
            trial = _copied(module).train(training)
            with torch.no_grad():
                trial(*args, **kwargs)
            _take_over(module, trial)
    if lazy := [name for name, part in module.named_modules() if _is_lazy_itself(part)]:
        where = ", ".join(name or type(module).__name__ for name in lazy)
        raise KDError(f"its lazy layers have no shape after a pass: {where}", hint="its forward must call them")


def _copied(module: nn.Module) -> nn.Module:
    """A deep copy; torch copies lazy parameters, but not the lazy buffers of a ``LazyBatchNorm2d``."""
    lazy = {id(item): item for item in module.buffers() if is_lazy(item)}
    make: Any = UninitializedBuffer  # whose stub lacks its parameters
    memo = {key: make(device=item.device, dtype=item.dtype) for key, item in lazy.items()}
    return copy.deepcopy(module, memo)


def _is_lazy_itself(module: nn.Module) -> bool:
    return any(is_lazy(tensor) for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)))


def _take_over(module: nn.Module, trial: nn.Module) -> None:
    """Make each lazy layer of ``module`` what its copy has become."""
    copies = dict(trial.named_modules())
    for name, part in list(module.named_modules()):
        if not _is_lazy_itself(part):
            continue
        buffers = {key: value for key, value in part._buffers.items() if value is not None and not is_lazy(value)}
        modules, training, twin = part._modules, part.training, copies[name]
        part.__class__ = twin.__class__
        part.__dict__ = {**twin.__dict__, "_modules": modules, "training": training}
        part._buffers.update(buffers)
