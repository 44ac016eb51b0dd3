"""Mutants of a loss: its module's source with one thing changed, which its goldens must notice.

A mutant has the result scaled by 1.01, a factor of a temperature dropped, another axis, or a sign turned.
"""

from __future__ import annotations

import ast
import copy
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

MARKS = ("LOSSES", "mean_over", "mean_over_samples", "over_batch")
REDUCTIONS = (
    *("softmax", "log_softmax", "logsumexp", "sum", "mean", "norm", "vector_norm", "normalize", "argmax", "argsort"),
    *("cosine_similarity", "cumsum", "gather", "transpose", "std", "var", "amax", "sort", "unsqueeze"),
)
SCALE = 1.01
Change = Callable[[ast.AST], ast.AST]


@dataclass(frozen=True)
class Mutant:
    """What was changed, as text, and the loss that it makes."""

    what: str
    loss: Any


def mutants(loss: Any) -> Iterator[Mutant]:
    """Every mutant of a loss, a function or a class, whose helpers in its own module count as parts of it."""
    loss = inspect.unwrap(loss)
    tree = ast.parse(inspect.getsource(sys.modules[loss.__module__]))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.decorator_list = [mark for mark in node.decorator_list if not _named(mark, MARKS)]
    parts = _parts(tree, loss.__name__)
    for number, node in enumerate(ast.walk(tree)):
        if id(node) not in parts:
            continue
        for what, change in _changes(node, loss.__name__, parts[id(node)]):
            mutated = copy.deepcopy(tree)
            change(next(each for i, each in enumerate(ast.walk(mutated)) if i == number))
            names: dict[str, Any] = {"__name__": loss.__module__}
            exec(compile(ast.fix_missing_locations(mutated), loss.__module__, "exec"), names)
            yield Mutant(f"line {getattr(node, 'lineno', 0)}: {what}", names[loss.__name__])


def _parts(tree: ast.Module, name: str) -> dict[int, str]:
    """The nodes of a function or class and of those of its module that it names, by id, and which it is in."""
    defined = {node.name: node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    reached, waiting = {name}, [name]
    while waiting:
        inside = ast.walk(defined[waiting.pop()])
        new = {each.id for each in inside if isinstance(each, ast.Name)} & defined.keys() - reached
        reached |= new
        waiting += new
    found: dict[int, str] = {}
    for each in reached:
        function = defined[each]
        for statement in function.body:
            found |= {id(node): each for node in ast.walk(statement)}
    return found


def _changes(node: ast.AST, name: str, within: str) -> Iterator[tuple[str, Change]]:
    text = ast.unparse(node)[:80] if isinstance(node, (ast.expr, ast.Return)) else ""
    if isinstance(node, ast.Return) and node.value is not None and within == name:
        yield f"scaled: {text}", _scaled
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, (ast.Mult, ast.Div)):
            for side, other in (("right", "left"), ("left", "right")):
                if "temperature" in ast.unparse(getattr(node, side)) and not _is_scaled(node, other):
                    yield f"without {ast.unparse(getattr(node, side))}: {text}", _Without(other)
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield f"sign turned: {text}", _turned
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield f"sign turned: {text}", _positive
    axes = _arguments(node) if isinstance(node, ast.Call) and _named(node, REDUCTIONS) else []
    if any(_axis(each) is not None for each in axes):
        yield f"another axis: {text}", _other_axis


def _is_scaled(node: ast.BinOp, other: str) -> bool:
    return isinstance(node.op, ast.Div) and other == "right"


def _named(node: ast.expr, names: tuple[str, ...]) -> bool:
    """Whether an expression is one of the names, or calls one, as a function or a method."""
    node = node.func if isinstance(node, ast.Call) else node
    return (node.id if isinstance(node, ast.Name) else getattr(node, "attr", "")) in names


def _arguments(call: ast.Call) -> list[ast.AST]:
    """The positional arguments and the keyword ``dim``: where an axis may stand."""
    return [*call.args, *(each.value for each in call.keywords if each.arg == "dim")]


def _axis(node: ast.AST) -> int | None:
    try:
        value = ast.literal_eval(node)  # type: ignore[arg-type]
    except ValueError:
        return None
    return value if isinstance(value, int) and not isinstance(value, bool) and -3 <= value <= 3 else None


def _scaled(node: Any) -> Any:
    node.value = ast.BinOp(node.value, ast.Mult(), ast.Constant(SCALE))


def _turned(node: Any) -> Any:
    node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()


def _positive(node: Any) -> Any:
    node.op = ast.UAdd()


class _Without:
    """A product or quotient becomes one of its operands."""

    def __init__(self, kept: str) -> None:
        self.kept = kept

    def __call__(self, node: Any) -> Any:
        setattr(node, "right" if self.kept == "left" else "left", ast.Constant(1.0))


def _other_axis(node: Any) -> Any:
    first = next(each for each in _arguments(node) if _axis(each) is not None)
    other = ast.Constant(1 if _axis(first) == 0 else 0)
    node.args = [other if each is first else each for each in node.args]
    for each in node.keywords:
        each.value = other if each.value is first else each.value
