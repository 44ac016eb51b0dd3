"""Making a frozen model cheap to run: batch norms folded into convolutions, weights in half precision, compiled."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
from torch import nn
from torch.fx import Node, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_weights

from kd_core.taps.landmarks import places
from kd_core.taps.paths import module_at
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import flat_places

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FROZEN = "FrozenBatchNorm2d"
"""What detection libraries call a batch norm whose values are buffers."""


def folded(model: nn.Module, taps: Collection[Tap]) -> nn.Module:
    """A copy of an eval-mode model in which each batch norm that follows a convolution alone is folded into it.

    The norm's place is taken by an identity, so all paths stay; a pair is left as it is where a tap looks between its
    two modules or at a parameter. Of a model that cannot be traced the parts are traced, and what cannot be is copied
    as it is. Outputs are equal up to rounding.
    """
    copied = copy.deepcopy(model).eval()
    modules = dict(copied.named_modules(remove_duplicate=False))
    plain = flat_places(places(model, tap) if tap.is_landmark else tap for tap in taps)
    looked = [(module_at(copied, tap.path), tap.side) for tap in plain]
    for convolution, norm in _pairs(copied, modules):
        first, second = modules[convolution], modules[norm]
        if not any(module is first or (module is second and side != "out") for module, side in looked):
            _fold(modules[convolution], modules[norm])
            parent, _, name = norm.rpartition(".")
            setattr(modules[parent], name, nn.Identity())
    return copied


def has_norms(model: nn.Module) -> bool:
    """Whether a model has batch norms, which may be folded."""
    return any(map(_is_norm, model.modules()))


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, NORMS) or type(module).__name__ == FROZEN


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whatever derives from a convolution is one too, and frozen norms are looked at from outside."""
        return isinstance(m, CONVOLUTIONS) or _is_norm(m) or super().is_leaf_module(m, module_qualified_name)


def _pairs(model: nn.Module, modules: dict[str, nn.Module]) -> list[tuple[str, str]]:
    """(convolution, norm) where the norm is the only user of the convolution's output, and both run once.

    What stands in two places of a model runs in both, and is in no pair.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    pairs = _traced_pairs(model, modules, "")
    return [pair for pair in pairs if all(places[id(modules[path])] == 1 for path in pair)]


def _traced_pairs(model: nn.Module, modules: dict[str, nn.Module], prefix: str) -> list[tuple[str, str]]:
    """The same of a model, or of its parts where it cannot be traced: its control flow depends on data, say.

    A part with optional arguments is not traced, because it is not known which of them it is called with.
    """
    try:
        if prefix and any(value.default is not value.empty for value in _arguments(model)):
            raise TypeError("optional arguments")
        nodes = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:
        parts = [(name, part) for name, part in model.named_children() if any(map(_is_norm, part.modules()))]
        return [pair for name, part in parts for pair in _traced_pairs(part, modules, f"{prefix}{name}.")]
    calls = [str(node.target) for node in nodes]
    return [
        (prefix + str(node.args[0].target), prefix + str(node.target))
        for node in nodes
        if _is_norm(modules[prefix + str(node.target)])
        and isinstance(node.args[0], Node)
        and node.args[0].op == "call_module"
        and isinstance(modules[prefix + str(node.args[0].target)], CONVOLUTIONS)
        and len(node.args[0].users) == 1
        and calls.count(str(node.target)) == calls.count(str(node.args[0].target)) == 1
    ]


def _arguments(model: nn.Module) -> Collection[inspect.Parameter]:
    return inspect.signature(model.forward).parameters.values()


def _fold(convolution: Any, norm: Any) -> None:
    """Scale a convolution's weight and shift its bias by what the norm would do to its output."""
    convolution.weight, convolution.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )


def halve(model: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers in bfloat16, which autocast would convert in every pass."""
    for module in model.modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            module.to(torch.bfloat16)
