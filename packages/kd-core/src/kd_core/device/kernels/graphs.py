"""The graph that torch.compile takes of a model in training, with this folder's kernels in it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional as F

from kd_core.device.kernels.conv3x3 import conv3x3, fits
from kd_core.device.kernels.norm import batch_norm

SUMS = (operator.add, operator.iadd, torch.add)
RELUS = (F.relu, torch.relu, torch.relu_)
NORMS = (F.batch_norm, batch_norm)
NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
DEFAULTS = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
CHANGES = {
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv, operator.imod, operator.ipow),
    *(operator.imatmul, operator.iand, operator.ior, operator.ixor, operator.ilshift, operator.irshift),
    *(operator.setitem, operator.delitem),
}
"""Operators that change their first operand."""
ONES = (1, (1, 1))
WITHOUT_GAIN = {
    *(*SUMS, *RELUS, batch_norm, conv3x3, torch.conv2d, torch.cat, torch.flatten, operator.getitem, F.pad),
    *(F.linear, torch._C._nn.linear, F.adaptive_avg_pool2d, F.avg_pool2d, torch._C._nn.avg_pool2d, F.max_pool2d),
    *("add_", "flatten", "view", "reshape", "size", "mean", "clone", "detach"),
}
"""Functions and methods for which inductor has no code of its own, or none that matters beside convolutions."""


def backend(graph: GraphModule, inputs: list[Tensor], *, inductor: bool) -> Callable[..., Any]:
    """A backend of torch.compile: a graph with this folder's kernels, run as it stands, without further compiling.

    With ``inductor``, a graph in which other operations are left that inductor fuses is given to it as it was.
    """
    changed = use_kernels(graph)
    calls = [node for node in changed.graph.nodes if node.op.startswith("call_")]
    if inductor and any(node.target not in WITHOUT_GAIN for node in calls):
        from torch._inductor.compile_fx import compile_fx

        return compile_fx(graph, inputs)  # type: ignore[return-value]
    return changed.forward


def use_kernels(graph: GraphModule) -> GraphModule:
    """A copy of a graph in which norms in training, with what follows them, and 3 x 3 convolutions are kernels."""
    changed = GraphModule(graph, copy.deepcopy(graph.graph))
    for node in list(changed.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is F.batch_norm:
            _replace_norm(changed.graph, node)
        elif node.target is torch.conv2d:
            _replace_convolution(changed.graph, node)
    changed.recompile()
    return changed


def _named(node: Node, names: tuple[str, ...]) -> dict[str, Any]:
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _replace_convolution(graph: Graph, node: Node) -> None:
    values = {**DEFAULTS, **_named(node, CONV)}
    weight = values["weight"].meta.get("example_value")
    plain = all(values[name] in ONES for name in ("stride", "padding", "dilation", "groups"))
    if plain and values["bias"] is None and weight is not None and fits(weight):
        _put(graph, node, conv3x3, (values["input"], values["weight"]))


def _replace_norm(graph: Graph, node: Node) -> None:
    values = {"momentum": 0.1, "eps": 1e-5, **_named(node, NORM)}
    affine = values.get("weight") is not None and values.get("bias") is not None
    if values.get("training") is not True or not affine or not isinstance(values["momentum"], float):
        return
    chain, added, relu = _chain(node)
    arguments = [values[name] for name in NORM if name != "training"]
    _put(graph, chain[-1], batch_norm, (*arguments, added, "relu" if relu else None))
    for spent in reversed(chain[:-1]):
        graph.erase_node(spent)


def _chain(norm: Node) -> tuple[list[Node], Node | None, bool]:
    """A norm, the sum and the ReLU behind it if nothing else sees what they take; what is added; is there a ReLU?"""
    chain, added = [norm], None
    follower = _follower(norm)
    if follower is not None and follower.target in SUMS and not follower.kwargs and len(follower.args) == 2:
        others = [value for value in follower.args if value is not norm]
        # What is changed in place may be seen under another name, but for a norm's own output.
        fits = follower.target is not operator.iadd or follower.args[0] is norm
        if fits and len(others) == 1 and isinstance(others[0], Node) and _still(norm, norm, follower):
            chain, added = [norm, follower], others[0]
            follower = _follower(follower)
    relu = follower is not None and follower.target in RELUS and _still(norm, chain[-1], follower)
    return [*chain, follower] if relu else chain, added, relu  # type: ignore[list-item]


def _follower(node: Node) -> Node | None:
    """The one call of a function that takes a node's value."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].op == "call_function" else None


def _still(norm: Node, first: Node, last: Node) -> bool:
    """Whether nothing is changed between two nodes behind a norm, which can then be computed at the second's place."""
    node = first.next
    while node is not last:
        if _in_place(node) or _running(node) & _running(norm):
            return False
        node = node.next
    return True


def _running(node: Node) -> set[Node]:
    """The running statistics that a norm moves."""
    if node.target not in NORMS:
        return set()
    values = _named(node, NORM)
    return {values[name] for name in ("running_mean", "running_var") if isinstance(values.get(name), Node)}


def _in_place(node: Node) -> bool:
    """Whether a call changes a value; the counters of norms, which are the graph's inputs, do not matter."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    changes = name.endswith("_") and not name.endswith("__")
    changes |= node.target in CHANGES
    flags = [] if node.target in NORMS else [*node.args[1:], node.kwargs.get("inplace")]
    changes |= any(flag is True for flag in flags)
    counter = bool(node.args) and isinstance(node.args[0], Node) and node.args[0].op == "placeholder"
    return node.op.startswith("call_") and changes and not counter


def _put(graph: Graph, node: Node, function: Callable[..., Tensor], arguments: tuple[Any, ...]) -> None:
    """A call of ``function`` in the place of ``node``."""
    with graph.inserting_before(node):
        call = graph.call_function(function, arguments)
    call.meta = dict(node.meta)
    node.replace_all_uses_with(call)
    graph.erase_node(node)
