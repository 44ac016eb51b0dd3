"""Modules of a placed model whose class is changed into one derived from it, and what must not be seen to change."""

from __future__ import annotations

import copyreg
from collections.abc import Iterable
from functools import wraps
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks


class Derived(nn.Module):
    """Stands before the class of a module that :func:`derive` changes. Its forward pass replaces that class's."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and pickled by its two bases: the class itself has no name by which pickle could find it."""
        reduced = super().__reduce_ex__(protocol)
        bases = type(self).__bases__  # others where torch has derived from it in turn, as for FSDP
        usual = bases in _CLASSES and reduced[0] is getattr(copyreg, "__newobj__")  # noqa: B009  (typeshed lacks it)
        return (_blank, bases, *reduced[2:]) if usual else reduced


def derive(module: nn.Module, before: type[Derived]) -> None:
    """Change the class of a module, in place, into one of the same name that derives from ``before`` and from it."""
    module.__class__ = _class(before, type(module))


def original(module: nn.Module) -> type[nn.Module]:
    """The class that a module had before :func:`derive`, its own where it had not been changed."""
    bases = type(module).__bases__
    return bases[1] if bases in _CLASSES else type(module)


def are_plain(modules: Iterable[nn.Module]) -> bool:
    """Whether nothing but their classes says what modules do, and nobody looks on: no hooks, no ``forward`` of one."""
    if hooks._has_any_global_hook():
        return False
    return not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        for module in modules
    )


_CLASSES: dict[tuple[type, ...], Any] = {}


def _class(before: type[Derived], kind: type[nn.Module]) -> Any:
    if (before, kind) not in _CLASSES:

        @wraps(kind.forward)  # whose signature some ask for
        def forward(self: Any, *inputs: Any, **options: Any) -> Any:
            return before.forward(self, *inputs, **options)

        names = {"__module__": kind.__module__, "__doc__": kind.__doc__, "forward": forward}
        _CLASSES[before, kind] = type(kind.__name__, (before, kind), names)
    return _CLASSES[before, kind]


def _blank(before: type[Derived], kind: type[nn.Module]) -> nn.Module:
    made = _class(before, kind)
    blank: nn.Module = made.__new__(made)
    return blank
