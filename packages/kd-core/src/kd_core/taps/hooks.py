"""The hooks of a forward wrapper: what they keep at each place of a model while a pass goes through it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from kd_core.taps.nested import mapped, tensors
from kd_core.taps.wires import Inputs

Mode = tuple[bool, bool, bool]
"""Training, gradients, inference mode: what may decide whether a model changes values in place."""


class Stop(BaseException):
    """Every tap has what it needs. Not an Exception, so that no model's ``except Exception`` keeps it."""


@dataclass(eq=False)
class Pass:
    """The forward pass of one wrapper, as its hooks see it."""

    on: bool = False
    pending: int = 0  # places that must still fire before the pass stops early; 0 where it must not stop
    drawn: list[Tensor] | None = None  # the generators' states at the last tap, where a pass looks at them


def random_states() -> list[Tensor]:
    """The states of the generators that a forward pass draws from."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices]


@dataclass(eq=False)
class Place:
    """One side of one module: its hook, and what the pass under way has put there."""

    now: Pass
    needed: int = 1  # calls, before a pass may stop
    calls: list[Any] = field(default_factory=list)
    copies: dict[int, Any] = field(default_factory=dict)  # of ``calls``, in the probe
    versions: list[tuple[Tensor, int]] = field(default_factory=list)
    clones: bool | None = None  # whether values are changed in place after they passed; None in the probe
    learned: dict[Mode, bool] = field(default_factory=dict)

    def entering(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The forward pre-hook."""
        if self.now.on:
            self.take(args[0] if len(args) == 1 and not kwargs else Inputs(args, kwargs))

    def leaving(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """The forward hook."""
        if self.now.on:
            self.take(output)

    def take(self, value: Any) -> None:
        """Keep ``value`` as it is now: itself, or a clone where something changes it later.

        The first pass in a mode, the probe, keeps both and decides at its end. It needs no second run, and its graph is
        that of all later passes. A compiled graph cannot watch for changes: there, a capture is always a clone.
        """
        if torch.compiler.is_compiling():
            self.calls.append(mapped(torch.clone, value))
            return
        if self.clones:
            value = mapped(torch.clone, value)
        else:
            for tensor in (value,) if type(value) is Tensor else tensors(value):
                if not tensor.is_inference():
                    self.versions.append((tensor, tensor._version))
            if self.clones is None:
                self.copies[len(self.calls)] = mapped(torch.clone, value)
        self.calls.append(value)
        if self.now.drawn is not None:
            self.now.drawn = random_states()
        if self.now.pending and len(self.calls) == self.needed:
            self.now.pending -= 1
            if not self.now.pending:
                raise Stop

    def settle(self, mode: Mode) -> bool:
        """End a pass; False where a value was lost to a change that the probe had not seen."""
        changed = False
        for tensor, version in self.versions:
            changed |= tensor._version != version
        if self.clones is not None:
            return not changed
        if self.calls and not self.copies:  # a compiled pass, which keeps clones and tells nothing of others
            return True
        self.learned[mode] = changed or torch.is_inference_mode_enabled()  # inference tensors have no versions
        if self.learned[mode]:
            self.calls = [self.copies.get(index, value) for index, value in enumerate(self.calls)]
        return True

    def clear(self) -> None:
        """Let go of what the pass put here."""
        self.calls, self.copies, self.versions = [], {}, []


def hooked(module: nn.Module, side: str, point: Place) -> RemovableHandle:
    """The hook of a place, on one side of its module."""
    if side == "in":
        return module.register_forward_pre_hook(point.entering, with_kwargs=True)
    return hook_output(module, point.leaving)


def hook_output(module: nn.Module, hook: Callable[..., Any]) -> RemovableHandle:
    """Register a forward hook that runs after all others but those that end the pass (``ends_pass``)."""
    handle = module.register_forward_hook(hook)
    for key in [key for key, hook in module._forward_hooks.items() if hasattr(hook, "ends_pass")]:
        module._forward_hooks[key] = module._forward_hooks.pop(key)
    return handle
