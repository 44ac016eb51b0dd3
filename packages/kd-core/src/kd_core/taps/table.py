"""What can be tapped: a table of a model's modules and the shapes that pass through them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import nn

from kd_core.taps.hooks import hook_output
from kd_core.taps.nested import tensors
from kd_core.taps.paths import unwrap_model, walk
from kd_core.taps.wires import Inputs, describe_shapes


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
class _HookRecord:
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
    seen = {module: _HookRecord() for module in model.modules()}
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


def _row(path: str, module: nn.Module, seen: _HookRecord) -> TapRow:
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


def table_text(rows: Sequence[TapRow], width: int = 100) -> str:
    """The rows as aligned columns, in ``width`` characters where paths are no longer than that.

    The model itself is called ``output``, as in wires. Arguments that are None are left out, a dtype stands behind the
    outputs where it is not float32, and the number of calls is a column where a module runs more than once. Cells that
    are too wide are wrapped; a path is never cut: a long one has a line of its own, before its other cells.
    """
    lines = [("path", "module", "in", "out", "params", "calls"), *map(_cells, rows)]
    if all(row.calls < 2 for row in rows):
        lines = [line[:-1] for line in lines]
    widths = _fitted([max(map(len, column)) for column in zip(*lines, strict=True)], width)
    return "\n".join(text for line in lines for text in _wrapped(line, widths))


def _cells(row: TapRow) -> tuple[str, ...]:
    outputs = row.outputs if row.dtype in ("float32", "") else f"{row.outputs} {row.dtype}"
    inputs = re.sub(r"\w+=None(, |$)", "", row.inputs).removesuffix(", ") if row.calls else "not called"
    return row.path or "output", row.type, inputs, outputs, f"{row.params:,}", str(row.calls)


def _fitted(widths: list[int], total: int) -> list[int]:
    """The widths of the columns, those of texts narrowed until all fit into ``total`` characters or are narrow."""
    for column, narrow in ((2, 18), (3, 18), (1, 16), (0, 12), (1, 12), (2, 15), (3, 15)):
        excess = max(sum(widths) + 2 * (len(widths) - 1) - total, 0)
        widths[column] = max(min(narrow, widths[column]), widths[column] - excess)
    return widths


def _wrapped(cells: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """The lines of one row: texts to the left, numbers to the right."""
    path, *others = cells
    if len(path) > widths[0]:
        yield path
        path = ""
    columns = [[path], *(_wrap(cell, width) for cell, width in zip(others, widths[1:], strict=True))]
    for line in zip_longest(*columns, fillvalue=""):
        pads = [str.ljust] * 4 + [str.rjust] * 2
        yield "  ".join(pad(cell, size) for pad, cell, size in zip(pads, line, widths, strict=False)).rstrip()


def _wrap(cell: str, width: int) -> list[str]:
    """Cut after spaces and equal signs, not within a shape or a word that fits."""
    solid = re.sub(r"\([^()]*\)", lambda shape: shape[0].replace(" ", "\N{NO-BREAK SPACE}"), cell)
    lines = [""]
    for piece in re.split(r"(?<=[ =])", solid):
        if lines[-1] and len((lines[-1] + piece).rstrip(" ")) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip(" ")) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return [line.rstrip(" ").replace("\N{NO-BREAK SPACE}", " ") for line in lines]
