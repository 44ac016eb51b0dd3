"""What commands print."""

from __future__ import annotations

import inspect
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from kd_core.cli.process import is_joined
from kd_core.errors import ConfigProblem, Mark
from kd_core.escapes import for_terminal
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.class_figures import ClassFigures


def echo(text: str, *, err: bool = False, nl: bool = True, file: TextIO | None = None) -> None:
    """Print ``text``, its control characters written out: names in it may be a stranger's."""
    click.echo(for_terminal(text), file=file, err=err, nl=nl)


def quiet_stdout() -> redirect_stdout[TextIO]:
    """Standard output is for what was asked for: what libraries print meanwhile goes to standard error."""
    return redirect_stdout(sys.stderr)


def first_process() -> bool:
    """Whether this is the first of the processes that a launcher started, the one that answers, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def print_result(result: Any, as_json: bool, *, per_class: bool = False) -> None:
    """Print a result, a dataclass: its ``metrics`` and, where it has one, the folder ``run`` as the last line.

    Metrics of single classes (``iou/cat``) are left to JSON, and to ``per_class``: a table of the figures of each.
    """
    if not first_process():
        return
    facts = {item.name: getattr(result, item.name) for item in fields(result)}
    classes = facts.pop("classes", None)
    if per_class and classes is not None:
        facts["classes"] = classes.as_record()
    if as_json:
        echo(json_text({key: value for key, value in facts.items() if key == "metrics" or value}))
        return
    published = facts.get("published", {})
    for metric, value in result.metrics.items():
        if "/" in metric and classes is not None:
            continue
        shown = format_score(value)  # None for NaN, which result.json, being JSON, does not have
        beside = {"published": metric, "original paper": f"{metric}_original"}  # keys of a WeightCard
        figures = [f"{words}: {published[key]}" for words, key in beside.items() if key in published]
        echo(f"{metric:<12} {shown}" + (f"  ({', '.join(figures)})" if figures else ""))
    if "classes" in facts:
        echo(class_table(classes))
    if facts.get("samples"):
        echo(f"{'samples':<12} {result.samples} ({result.split})")
    if facts.get("run"):
        echo(str(result.run))


def class_table(figures: ClassFigures) -> str:
    """The figures of each class as a table, with empty lines around it; dashes where one is not defined."""
    shown = [
        ["-" if value is None or value != value else f"{value:.4g}" for value in column]
        if any(isinstance(value, float) for value in column)
        else list(map(str, column))
        for column in figures.columns.values()
    ]
    widths = [max(map(len, (name, *column))) for name, column in zip(figures.columns, shown, strict=True)]
    columns = [[cell.rjust(width) for cell in column] for width, column in zip(widths, shown, strict=True)]
    header = ["class", *(name.rjust(width) for name, width in zip(figures.columns, widths, strict=True))]
    return f"\n{table(header, list(zip(map(for_terminal, figures.classes), *columns, strict=True)))}\n"


def shutdown_distributed() -> None:
    """Part from the other processes that this one is joined to, if any."""
    if is_joined():
        from kd_core.device.runtime import leave

        leave()


def command_line() -> str:
    """What was typed, for the manifest."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def format_score(value: float | None) -> str:
    """A score with six significant digits; ``nan`` for None, as which JSON holds NaN."""
    return "nan" if value is None else f"{value:.6g}"


@dataclass(frozen=True)
class CheckReport:
    """What ``check`` says of one config or study: problems, lines on what could not be verified, lines on the data.

    ``trains`` is false where there are no stages, and only a student to evaluate.
    """

    problems: list[ConfigProblem] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)
    trains: bool = True

    def text(self, file: str) -> str:
        """The report on a ``file`` without problems, for people."""
        verdict = "ok" if self.trains else "ok to evaluate; without stages there is nothing to train"
        return "\n".join([f"{file}: {verdict}", *(f"data: {line}" for line in self.data), *self.unverified])

    def as_json(self) -> dict[str, Any]:
        """The report for ``--json``."""
        return {**vars(self), "problems": [problem_as_json(problem) for problem in self.problems]}


def problem_as_json(problem: ConfigProblem) -> dict[str, Any]:
    """A problem of a config with its place: file, line and column (None where unknown), path, message and hint."""
    mark = problem.mark or Mark("")
    position = {"file": mark.file, "line": mark.line, "column": mark.column}
    return {**position, "path": problem.path, "message": problem.message, "hint": problem.hint}


def first_line(item: object) -> str:
    """The first line of an object's docstring; empty without one."""
    return (inspect.getdoc(item) or "").partition("\n")[0]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    lines = [header, *rows] if header else list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def bytes_text(size: float) -> str:
    """A number of bytes with three digits and its unit: ``256 MB``. A MB is a million bytes."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.3g} {unit}"
