"""Modules of a placed model whose class is changed into one derived from it, and what must not be seen to change."""

from __future__ import annotations

from typing import Any

from torch import nn


class Derived(nn.Module):
    """Stands before the class of a module that :func:`derive` changes. Its forward pass replaces that class's."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and pickled by its two bases: the class itself has no name by which pickle could find it."""
        bases = type(self).__bases__  # others where torch has derived from it in turn, as for FSDP
        return (_blank, bases, self.__dict__) if bases in _CLASSES else super().__reduce_ex__(protocol)


def derive(module: nn.Module, before: type[Derived]) -> None:
    """Change the class of a module, in place, into one of the same name that derives from ``before`` and from it."""
    module.__class__ = _class(before, type(module))


def is_hooked(module: nn.Module) -> bool:
    """Whether a hook looks at what a module takes or gives, or at its gradients."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


_CLASSES: dict[tuple[type, ...], Any] = {}


def _class(before: type[Derived], kind: type[nn.Module]) -> Any:
    if (before, kind) not in _CLASSES:
        names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        _CLASSES[before, kind] = type(kind.__name__, (before, kind), names)
    return _CLASSES[before, kind]


def _blank(before: type[Derived], kind: type[nn.Module]) -> nn.Module:
    made = _class(before, kind)
    blank: nn.Module = made.__new__(made)
    return blank
