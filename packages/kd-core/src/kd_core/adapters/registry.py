"""The registry of adapters: what may be registered, and the words for what their inputs look like."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.registry import Registry, owner_of
from kd_core.signatures import is_open, is_value, parameters, refuse

Adapter = Callable[..., nn.Module]
"""``(inputs, like, to, *, values...) -> nn.Module``: what ADAPTERS holds.

``inputs`` are the probe batch's tensors at the adapter's wires, in order; ``like`` is the tensor whose shape the output
is to have (None: not given) and ``to`` its width. Only shapes may be read: a probe can lie on the meta device. The
module's ``forward`` takes the inputs one by one.
"""

GIVEN = ("inputs", "like", "to")
"""A builder's positional parameters."""


def check(name: str, builder: Adapter) -> None:
    """KDError where ``builder`` cannot be named in a config. Called by every registration."""
    found = parameters(builder)
    given = tuple(str(p) if is_open(p) else p.name for p in found if not is_value(p))
    if given != GIVEN:
        raise KDError(
            f"adapter {name!r}, {owner_of(builder)}, must take ({', '.join(GIVEN)}, *, ...), not ({', '.join(given)})"
        )
    refuse("adapter", name, builder, [p for p in found if is_value(p)])


ADAPTERS: Registry[Adapter] = Registry("adapter", "kd.adapters", check)


def tensors(name: str, inputs: list[Tensor], like: Tensor | None, *, most: int = 1) -> list[Tensor]:
    """``inputs`` of the adapter ``name``; KDError where there are more than ``most``, or one is no tensor."""
    if not 1 <= len(inputs) <= most:
        wanted = "one input" if most == 1 else f"one to {most} inputs"
        raise KDError(f"{name} takes {wanted}, not {len(inputs)}")
    for role, each in [*(("input", source) for source in inputs), ("like", like)]:
        if each is not None and not isinstance(each, Tensor):
            raise KDError(
                f"{name}'s {role} is a {type(each).__name__}, not a tensor\n    hint: take one out of it with /FIELD"
            )
    return inputs


def feature_map(name: str, source: Tensor) -> Tensor:
    """``source`` where it is (B, C, H, W), else a KDError."""
    if source.ndim != 4:
        raise KDError(f"{name} takes maps (B, C, H, W), not {shape(source)}")
    return source


def width_of(name: str, like: Tensor | None, to: int | None) -> int:
    """``to``, else the channels of ``like``; KDError where neither is given or there is none."""
    if to is None and like is None:
        raise KDError(f"{name} knows no width\n    hint: write `like:` (a wire to be like) or `to:` (a number)")
    if to is not None and to < 1:
        raise KDError(f"to is {to}, but must be a width of at least 1")
    return to if to is not None else like.shape[1]  # type: ignore[union-attr]


def shape(tensor: Tensor) -> str:
    """``(2, 3)``."""
    return str(tuple(tensor.shape))
