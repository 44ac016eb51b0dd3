"""Landmarks of a model that tells none, from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from kd_core.taps.hooks import hook_output
from kd_core.taps.landmarks import Landmarks, declared, keep
from kd_core.taps.nested import tensors
from kd_core.taps.paths import unwrap_model, walk
from kd_core.taps.wires import Form, Side, Tap

HALVED = 4
"""The most positions that a stride of 2 makes one of."""
STEM_STRIDE = 4
"""How much smaller than the image the first feature map of a timm model is."""


PROJECTIONS = {
    "queries": ("query", "q_proj", "q_lin", "query_proj", "q"),
    "keys": ("key", "k_proj", "k_lin", "key_proj", "k"),
    "values": ("value", "v_proj", "v_lin", "value_proj", "v"),
}
"""What libraries call the linear layers of an attention."""


@dataclass(frozen=True)
class _Call:
    """One call of a module that ended: which call of it, the first tensor that it gave, and whether the second item is
    that of an attention's probabilities (B, heads, L, L)."""

    path: str
    module: nn.Module
    number: int
    output: Tensor
    attends: bool = False
    form: Form = field(default="first", compare=False)
    """What a landmark takes of it."""

    @property
    def depth(self) -> int:
        """How deep the module lies."""
        return self.path.count(".")


def know_landmarks(model: nn.Module, call: Callable[[nn.Module, Any], Any], inputs: Any) -> None:
    """Infer and keep the landmarks of a model that does not tell them, by ``call(model, inputs)`` without gradients."""
    model = unwrap_model(model)
    if declared(model) is None:
        keep(model, infer_landmarks(model, call, inputs))


def infer_landmarks(model: nn.Module, call: Callable[[nn.Module, Any], Any], inputs: Any) -> Landmarks:
    """The places of a model, as one pass shows them.

    The classifier is the linear layer (or convolution) that gives the model's output, or else the last one whose output
    is as wide; of a timm model the first of those that it names. Feature maps are those of a timm model's own
    ``feature_info``, from a quarter of the image's resolution on; else, for each spatial size on the way
    down at which convolutions work, what the least nested module gives last at it, without the largest one where that
    is the work of one convolution (a stem); else the outputs of the layers of the longest stack of layers.
    """
    calls, output = _recorded(model, call, inputs)
    classifier = _classifier_of_timm(model, calls) or _classifier(calls, output)
    before = calls if classifier is None else calls[: calls.index(classifier)]
    stack = _by_layer(model, before)
    features = _of_timm(model, before) or _by_size(before, stack) or stack
    last = [_activation(call, before) for call in features]
    return Landmarks(
        features=tuple(_place(call, before) for call in features),
        preactivations=tuple(Tap(*place) for place in last if place) if all(last) else (),
        classifier=None if classifier is None else classifier.path,
        norms=_norms(last, before),
        last_map=None if classifier is None else _last_map(classifier, before, features),
        attentions=_attentions(stack, before),
        **{kind: _projections(kind, stack, before) for kind in PROJECTIONS},
    )


def _recorded(
    model: nn.Module, call: Callable[[nn.Module, Any], Any], inputs: Any
) -> tuple[list[_Call], Tensor | None]:
    """Every call of a pass in the order in which they ended, and the model's first output."""
    calls: list[_Call] = []
    counts: dict[str, int] = {}

    def noting(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            number = counts[path] = counts.get(path, -1) + 1
            attends = isinstance(output, (tuple, list)) and len(output) > 1 and _is_attention(output[1])
            calls.extend(
                _Call(path, module, number, tensor, attends) for tensor in [_first(output)] if tensor is not None
            )

        return hook

    paths: dict[nn.Module, str] = {}
    for path, module in walk(model):
        paths.setdefault(module, path)
    handles = [hook_output(module, noting(path)) for module, path in paths.items() if path]
    try:
        with torch.no_grad():
            output = _first(call(model, inputs))
    finally:
        for handle in handles:
            handle.remove()
    return calls, output


def _first(value: Any) -> Tensor | None:
    return next(tensors(value), None)


def _classifier(calls: Sequence[_Call], output: Tensor | None) -> _Call | None:
    if output is None:
        return None
    axis = 1 if output.ndim == 4 else -1
    for call in (*(call for call in calls if call.output is output), *reversed(calls)):
        if isinstance(call.module, (nn.Linear, _ConvNd)) and call.output.ndim >= 2:
            width = call.output.shape[1 if isinstance(call.module, _ConvNd) else -1]
            if width == output.shape[axis]:
                return call
    return None


def _classifier_of_timm(model: nn.Module, calls: Sequence[_Call]) -> _Call | None:
    """The first layer that a timm model says its weights classify with; None where it says none, or none runs."""
    told = getattr(model, "pretrained_cfg", None)
    names = told.get("classifier") if isinstance(told, Mapping) else None
    layers = [call for call in calls if isinstance(call.module, (nn.Linear, _ConvNd))]
    by_path = {call.path: call for call in layers}
    names = [names] if isinstance(names, str) else names or ()
    return next((by_path[name] for name in names if name in by_path), None)


def _of_timm(model: nn.Module, calls: Sequence[_Call]) -> list[_Call]:
    """What a timm model's ``feature_info`` names, without what lies above a quarter of the image's resolution.

    Nothing where the model has no such, or where one of them is no single call of a module.
    """
    info = getattr(model, "feature_info", None)
    entries = info if isinstance(info, list) else getattr(info, "info", [])
    if not all(isinstance(entry, Mapping) and {"module", "num_chs", "reduction"} <= entry.keys() for entry in entries):
        return []
    by_path = {call.path: call for call in calls}
    deep = [entry for entry in entries if entry["reduction"] >= STEM_STRIDE] or entries
    names = [entry["module"] for entry in deep]
    if len(set(names)) < len(names) or not by_path.keys() >= set(names):
        return []
    found = [(by_path[entry["module"]], entry["num_chs"]) for entry in deep]
    if not all(width in (call.output.shape[1], call.output.shape[-1]) for call, width in found):
        return []
    return [
        replace(call, form="channels_last")
        if _is_map(call) and call.output.shape[1] != width == call.output.shape[-1]
        else call
        for call, width in found
    ]


def _by_size(calls: Sequence[_Call], stack: Sequence[_Call]) -> list[_Call]:
    """What the least nested module gives last at each spatial size, from the largest on.

    Nothing where that is one convolution alone before a ``stack`` of layers: it makes the patches of a transformer.
    """
    maps = [(index, call) for index, call in enumerate(calls) if _is_map(call) and _area(call) > 1]
    features: list[tuple[_Call, int]] = []
    for size in sorted({_area(call) for _, call in maps}, reverse=True):
        smaller = min((index for index, call in maps if _area(call) < size), default=len(calls))
        here = [call for index, call in maps if _area(call) == size and index < smaller]
        if convolutions := sum(isinstance(call.module, _ConvNd) for call in here):
            depth = min(call.depth for call in here)
            features.append(([call for call in here if call.depth == depth][-1], convolutions))
    if len(features) > 1 and features[0][1] == 1:
        del features[0]  # the stem
    return [] if [count for _, count in features] == [1] and stack else [call for call, _ in features]


def _area(call: _Call) -> int:
    return call.output.shape[2] * call.output.shape[3]


def _by_layer(model: nn.Module, calls: Sequence[_Call]) -> list[_Call]:
    """The outputs (B, L, D) of the layers of the longest stack whose layers give one shape.

    A stack of one layer is a ModuleList, as a transformer of one layer has.
    """
    by_module = {call.module: call for call in calls}
    best: list[_Call] = []
    for module in model.modules():
        layers = list(module.children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else []
        stack = [by_module[layer] for layer in layers if layer in by_module]
        shapes = {call.output.shape for call in stack}
        least = 0 if isinstance(module, nn.ModuleList) else 1
        if len(stack) == len(layers) > max(len(best), least) and len(shapes) == 1 and stack[0].output.ndim == 3:
            best = stack
    return best


def _within(layer: _Call, calls: Sequence[_Call]) -> list[_Call]:
    """The calls of the modules in a layer, in the order in which they ended."""
    return [call for call in calls if call.path.startswith(f"{layer.path}.")]


def _attentions(stack: Sequence[_Call], calls: Sequence[_Call]) -> tuple[Tap, ...]:
    """What gives the attention probabilities of each layer: its first module that gives them as its second item, as
    those of transformers do, or the dropout on them, as in timm. Nothing where a layer has none."""
    taps = []
    for layer in stack:
        inner = _within(layer, calls)
        second = (replace(call, form="second") for call in inner if call.attends)
        dropped = (call for call in inner if isinstance(call.module, _DropoutNd) and _is_attention(call.output))
        if (found := next(iter((*second, *dropped)), None)) is None:
            return ()
        taps.append(_place(found, calls))
    return tuple(taps)


def _is_attention(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[-1] == value.shape[-2]


def _projections(kind: str, stack: Sequence[_Call], calls: Sequence[_Call]) -> tuple[Tap, ...]:
    """The first linear layer of each layer that makes the queries, keys or values; nothing where a layer has none."""
    found = [
        next((call for call in _within(layer, calls) if call.path.rpartition(".")[2] in PROJECTIONS[kind]), None)
        for layer in stack
    ]
    return tuple(_place(call, calls) for call in found if call is not None) if None not in found else ()


def _place(call: _Call, calls: Sequence[_Call]) -> Tap:
    """The tap of a call, with its number where the module runs more than once."""
    often = sum(other.module is call.module for other in calls) > 1
    return Tap(call.path, "out", call.number if often else None, call.form)


def _activation(feature: _Call, calls: Sequence[_Call]) -> tuple[str, Side, int | None] | None:
    """The input of the activation whose output a feature map is; None where no module is that activation."""
    for call in _leaves_of(feature, calls):
        if call.output is feature.output and type(call.module).__module__ == "torch.nn.modules.activation":
            often = sum(other.module is call.module for other in calls) > 1
            return call.path, "in", call.number if often else None
    return None


def _leaves_of(feature: _Call, calls: Sequence[_Call]) -> Iterator[_Call]:
    """The calls without modules inside, the last first, that ended before a feature map was there."""
    for call in reversed(calls[: calls.index(feature) + 1]):
        if next(call.module.children(), None) is None:
            yield call


def _norms(activations: Sequence[tuple[str, Side, int | None] | None], calls: Sequence[_Call]) -> tuple[str, ...]:
    """The last batch norms of the modules that hold these activations before they run; none where one has none."""
    norms = []
    for place in activations:
        found = None if place is None else _norm(place[0], place[2] or 0, calls)
        if found is None:
            return ()
        norms.append(found)
    return tuple(norms)


def _norm(path: str, number: int, calls: Sequence[_Call]) -> str | None:
    end = next(index for index, call in enumerate(calls) if (call.path, call.number) == (path, number))
    holder = path.rpartition(".")[0]
    beside = [call for call in calls[:end] if call.path.rpartition(".")[0] == holder]
    norms = [
        call for call in beside if isinstance(call.module, _BatchNorm) and call.output.shape == calls[end].output.shape
    ]
    return norms[-1].path if norms else None


def _last_map(classifier: _Call, calls: Sequence[_Call], features: Sequence[_Call]) -> Tap | None:
    """The last feature map before a pooling to one position, of as many channels as the classifier takes.

    None where it comes before the last of the ``features``, or where anything changes the means of its positions.
    """
    width = getattr(classifier.module, "in_features", None) or getattr(classifier.module, "in_channels", None)
    pooled = [
        index for index, call in enumerate(calls) if _is_pooling(call.module) and _is_map(call) and _area(call) == 1
    ]
    end = pooled[-1] if pooled else len(calls)
    maps = [(index, call) for index, call in enumerate(calls[:end]) if _is_map(call) and not _is_pooling(call.module)]
    fitting = [(index, call) for index, call in maps if call.output.shape[1] == width]
    if not fitting or any(_changes(call.module) for call in calls[end:]):
        return None
    index, last = fitting[-1]
    least = _area(features[-1]) if features and _is_map(features[-1]) else 1
    early = any(feature.path == call.path for feature in features for call in calls[index + 1 :])
    shrunk = _area(last) == 1 and least > HALVED  # by a convolution over the whole map
    return None if early or shrunk else _place(last, calls)


def _changes(module: nn.Module) -> bool:
    """Whether a module without modules inside gives, in evaluation, other values than it takes."""
    kept = isinstance(module, (nn.Identity, nn.Flatten, _DropoutNd)) or _is_pooling(module)
    return next(module.children(), None) is None and not kept


def _is_map(call: _Call) -> bool:
    return call.output.ndim == 4


def _is_pooling(module: nn.Module) -> bool:
    """Whether it is a pooling of torch, or one of a library, without weights."""
    bare = next(module.children(), None) is None and next(module.parameters(), None) is None
    return type(module).__module__ == "torch.nn.modules.pooling" or (bare and "Pool" in type(module).__name__)
