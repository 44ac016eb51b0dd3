"""Reading a callable's parameters: the signature of a loss or an adapter is its schema."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from kd_core.errors import KDError
from kd_core.ranges import range_of, read_signature
from kd_core.registry import owner_of

RESERVED = frozenset({"loss", "weight", "module", "inputs", "match", "out_features", "each", "detach"})
"""Keys of a term or an adapter in a config: no parameter may have one of these names."""
FROM_INPUTS = "from_inputs"
"""The class method of a registered loss that builds it from the probe batch's tensors."""
Marked = TypeVar("Marked", bound=Callable[..., Any])


def single_tensors(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters of a function, or of a module's class or object, that take one tensor, by their annotations."""
    owner = function if inspect.isclass(function) else type(function)
    forward = getattr(owner, "forward", None)
    declared = parameters(function) if forward is None else parameters(forward, bound=True)
    return frozenset(parameter.name for parameter in declared if _is_tensor(parameter.annotation))


def _is_tensor(annotation: Any) -> bool:
    union = get_origin(annotation) in (Union, types.UnionType)
    kinds = [kind for kind in (get_args(annotation) if union else (annotation,)) if kind is not type(None)]
    return [getattr(kind, "__name__", "") for kind in kinds] == ["Tensor"]


def over_batch(item: Marked) -> Marked:
    """Mark a loss or an adapter (a builder or a module's class) that relates samples to each other or keeps a memory.

    Under several processes its inputs are the rows of all of them, gathered with gradients. A loss is computed by every
    process over all rows; of an adapter's output each process gets back the rows of its own samples. With
    ``accumulation_steps``, which would show it one micro-batch at a time, it is refused.
    A loss without a mark is treated alike.
    """
    item.over_batch = True  # type: ignore[attr-defined]
    return item


def parameters(function: Callable[..., Any], *, bound: bool = False) -> list[inspect.Parameter]:
    """The parameters of ``function``, annotations as objects where they can be resolved.

    ``bound`` leaves out the first one (``self``). KDError where the callable has no readable signature.
    """
    try:
        signature = read_signature(function)
    except (TypeError, ValueError) as reason:
        raise KDError(f"{owner_of(function)} has no readable signature: {reason}") from reason
    return list(signature.parameters.values())[1 if bound else 0 :]


def is_open(parameter: inspect.Parameter) -> bool:
    """Whether it is ``*args`` or ``**kwargs``."""
    return parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)


def is_value(parameter: inspect.Parameter) -> bool:
    """Whether it is keyword-only: a hyperparameter of a registered function."""
    return parameter.kind is parameter.KEYWORD_ONLY


def refuse(kind: str, name: str, item: object, declared: Iterable[inspect.Parameter]) -> None:
    """KDError with everything about the ``declared`` parameters that keeps ``item`` from being registered."""
    wrong: list[str] = []
    for parameter in declared:
        if is_open(parameter):
            wrong.append(f"{parameter} hides its parameters: name them")
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            wrong.append(f"{parameter.name!r} is positional-only, but a config passes it by name")
        elif parameter.name in RESERVED:
            wrong.append(f"{parameter.name!r} is a reserved word of the config ({', '.join(sorted(RESERVED))})")
        elif parameter.annotation is parameter.empty:
            wrong.append(f"{parameter.name!r} has no annotation")
    if wrong:
        raise KDError(f"{kind} {name!r}, {owner_of(item)}, cannot be registered: {'; '.join(wrong)}")


def values_of(item: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The hyperparameters of a registered function (keyword-only) or class, by name.

    Those of a class are ``__init__``'s, or where the class has one, those of ``from_inputs``.
    """
    if inspect.isclass(item):
        built = getattr(item, FROM_INPUTS, None)
        taken = parameters(item.__init__, bound=True) if built is None else parameters(built)
    else:
        taken = parameters(item)
    return {parameter.name: parameter for parameter in taken if is_value(parameter)}


def signature_text(item: Callable[..., Any], *, inputs: bool = True) -> str:
    """The parameters of something registered, each with type, range and default: ``(*, temperature: float > 0 = 4.0)``.

    What comes by position stands first: a loss's tensors, an adapter's inputs. Without ``inputs`` it is left out.
    """
    texts = [f"{name}=None" if optional else name for name, optional in wires_of(item)] if inputs else []
    values = [value_text(parameter) for parameter in values_of(item).values()]
    return f"({', '.join([*texts, *(['*'] if texts and values else []), *values])})"


def wires_of(item: Callable[..., Any]) -> list[tuple[str, bool]]:
    """The names of the tensors that a loss takes, and whether each may be left out."""
    forward = getattr(item, "forward", None)
    declared = parameters(forward, bound=True) if inspect.isclass(item) and forward else parameters(item)
    tensors = [parameter for parameter in declared if not is_value(parameter) and not is_open(parameter)]
    return [(parameter.name, parameter.default is not parameter.empty) for parameter in tensors]


def value_text(parameter: inspect.Parameter) -> str:
    """A hyperparameter with its type, its range and its default."""
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
    return f"{parameter.name}: {type_text(parameter.annotation)}{default}"


def type_text(annotation: Any) -> str:
    """A type as a reader writes it, with its range: ``float > 0``, ``int >= 1 or None``, ``'kl' or 'mse'``."""
    if isinstance(annotation, str):
        return annotation
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(map(type_text, get_args(annotation)))
    if origin is Literal:
        return " or ".join(map(repr, get_args(annotation)))
    if origin is Annotated:
        limits = range_of(annotation)
        return f"{type_text(annotation.__origin__)} {limits.sign if limits else ''}".rstrip()
    if annotation is type(None):
        return "None"
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else _short(annotation)


def _short(annotation: Any) -> str:
    """A generic type without the modules of its parts: ``list[float]``."""
    inner = ", ".join("..." if part is ... else type_text(part) for part in get_args(annotation))
    name = getattr(get_origin(annotation), "__name__", str(annotation).rpartition(".")[2])
    return f"{name}[{inner}]" if inner else name
