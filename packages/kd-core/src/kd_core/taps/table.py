"""What can be tapped: a table of a model's modules and the shapes that pass through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kd_core.taps.nested import tensors
from kd_core.taps.wires import Inputs, describe_shapes
from kd_core.taps.wrappers import hook_output, unwrap_model, walk


@dataclass(frozen=True)
class TapRow:
    """One module: the shapes that it took and gave (several where calls differ), and its number of parameters."""

    path: str
    type: str
    inputs: str
    outputs: str
    dtype: str
    params: int
    calls: int


@dataclass(eq=False)
class _Seen:
    """The hooks on one module. What they note they note at once: a value may be changed in place later."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook."""
        self.inputs.append(describe_shapes(Inputs(args, kwargs)))

    def leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        self.outputs.append(describe_shapes(output))
        self.dtypes += [str(tensor.dtype).removeprefix("torch.") for tensor in tensors(output)]


def module_table(model: nn.Module, example_inputs: Any, call: Callable[[nn.Module, Any], Any]) -> list[TapRow]:
    """A row for each path, from one pass of ``call(model, example_inputs)`` in evaluation mode without gradients.

    The model itself has the path ``""``, a shared module a row under each of its paths, and a module that the pass does
    not call 0 calls. The model is left as it was.
    """
    model = unwrap_model(model)
    seen = {module: _Seen() for module in model.modules()}
    training = [module for module in seen if module.training]
    handles = [module.register_forward_pre_hook(record.entering, with_kwargs=True) for module, record in seen.items()]
    handles += [hook_output(module, record.leaving) for module, record in seen.items()]
    try:
        with torch.no_grad():
            call(model.eval(), example_inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return [_row(path, module, seen[module]) for path, module in walk(model)]


def _row(path: str, module: nn.Module, seen: _Seen) -> TapRow:
    def distinct(texts: Iterable[str], between: str) -> str:
        return between.join(dict.fromkeys(texts))

    return TapRow(
        path,
        type(module).__name__,
        inputs=distinct(seen.inputs, " | "),
        outputs=distinct(seen.outputs, " | "),
        dtype=distinct(seen.dtypes, ", "),
        params=sum(parameter.numel() for parameter in module.parameters()),
        calls=len(seen.inputs),
    )


def table_text(rows: Sequence[TapRow]) -> str:
    """The rows as aligned columns. The model itself is called ``output``, as in wires."""
    lines = [("path", "module", "in", "out", "dtype", "params", "calls")]
    for row in rows:
        calls = str(row.calls) if row.calls else "not called"
        lines.append((row.path or "output", row.type, row.inputs, row.outputs, row.dtype, f"{row.params:,}", calls))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pads = [str.ljust] * 5 + [str.rjust] * 2
    return "\n".join(
        "  ".join(pad(cell, width) for pad, cell, width in zip(pads, line, widths, strict=True)).rstrip()
        for line in lines
    )
