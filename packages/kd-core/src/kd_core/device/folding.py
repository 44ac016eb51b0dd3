"""Making a frozen model cheap to run: batch norms folded into convolutions, weights in half precision, compiled."""

from __future__ import annotations

import copy
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


def folded(model: nn.Module, taps: Collection[Tap]) -> nn.Module:
    """A copy of an eval-mode model in which each batch norm that follows a convolution alone is folded into it.

    The norm's place is taken by an identity, so all paths stay; a pair is left as it is where a tap looks between its
    two modules or at a parameter. What cannot be traced is copied as it is. Outputs are equal up to rounding.
    """
    copied = copy.deepcopy(model).eval()
    modules = dict(copied.named_modules())
    plain = flat_places(places(model, tap) if tap.is_landmark else tap for tap in taps)
    looked = [(module_at(copied, tap.path), tap.side) for tap in plain]
    for convolution, norm in _pairs(copied, modules):
        first, second = modules[convolution], modules[norm]
        if not any(module is first or (module is second and side != "out") for module, side in looked):
            _fold(modules[convolution], modules[norm])
            parent, _, name = norm.rpartition(".")
            setattr(modules[parent], name, nn.Identity())
    return copied


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whatever derives from a convolution is one too."""
        return isinstance(m, CONVOLUTIONS) or super().is_leaf_module(m, module_qualified_name)


def _pairs(model: nn.Module, modules: dict[str, nn.Module]) -> list[tuple[str, str]]:
    """(convolution, norm) where the norm is the only user of the convolution's output, and both run once."""
    try:
        nodes = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # control flow that depends on data: nothing is folded
        return []
    calls = [str(node.target) for node in nodes]
    return [
        (str(node.args[0].target), str(node.target))
        for node in nodes
        if isinstance(modules[str(node.target)], NORMS)
        and isinstance(node.args[0], Node)
        and node.args[0].op == "call_module"
        and isinstance(modules[str(node.args[0].target)], CONVOLUTIONS)
        and len(node.args[0].users) == 1
        and calls.count(str(node.target)) == calls.count(str(node.args[0].target)) == 1
    ]


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
