"""What can be tapped: a table of a model's modules with the shapes that pass through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kd_core.nested import tensors
from kd_core.wires import Inputs, describe
from kd_core.wrappers import bare


@dataclass(frozen=True)
class Row:
    """One module: ``inputs`` and ``outputs`` are shapes, one text for all calls or one for each where they differ."""

    path: str
    type: str
    inputs: str
    outputs: str
    dtype: str
    params: int
    calls: int


@dataclass(eq=False)
class _Seen:
    """The hook on one module."""

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    dtypes: list[str] = field(default_factory=list)

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self.inputs.append(describe(Inputs(args, kwargs)))
        self.outputs.append(describe(output))
        self.dtypes += [str(each.dtype).removeprefix("torch.") for each in tensors(output)]


def module_table(model: nn.Module, example_inputs: Any, call: Callable[[nn.Module, Any], Any]) -> list[Row]:
    """A row for each path of ``model``, from one pass over ``example_inputs`` in evaluation mode without gradients.

    A module under several paths has a row for each; one that the pass does not call has 0 calls. The model, its modes
    included, is left as it was.
    """
    model = bare(model)
    seen = {module: _Seen() for module in model.modules()}
    training = [module for module in seen if module.training]
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, hook in seen.items()]
    try:
        with torch.no_grad():
            call(model.eval(), example_inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    return [_row(path, module, seen[module]) for path, module in model.named_modules(remove_duplicate=False)]


def _row(path: str, module: nn.Module, seen: _Seen) -> Row:
    def distinct(texts: list[str], between: str = " | ") -> str:
        return between.join(dict.fromkeys(texts))

    params = sum(parameter.numel() for parameter in module.parameters())
    inputs, outputs = distinct(seen.inputs), distinct(seen.outputs)
    return Row(path, type(module).__name__, inputs, outputs, distinct(seen.dtypes, ", "), params, len(seen.outputs))


def table_text(rows: Sequence[Row]) -> str:
    """The rows as aligned columns. The model itself is called ``output``, as in wires."""
    head = ("path", "module", "in", "out", "dtype", "params", "calls")
    body = [
        (
            row.path or "output",
            row.type,
            row.inputs,
            row.outputs,
            row.dtype,
            f"{row.params:,}",
            str(row.calls or "not called"),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *body)]
    right = {5, 6}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in [head, *body]
    )
