"""Dotted names -> objects, checked before anything is called."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kd_core.config.calls import allowed
from kd_core.config.calls.allowed import canonical, under
from kd_core.config.syntax.tags import DOTTED
from kd_core.errors import ConfigError, ConfigProblem, Mark, nearest

_MISSING = object()
_CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_KINDS = "Module, Optimizer, LRScheduler, Dataset, Sampler or transform"


class _Refusal(Exception):
    """A reason and a hint; becomes a ConfigProblem where the place is known."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Policy:
    """What a config may name and call. ``trust`` holds the prefixes of ``--trust``.

    All methods raise ConfigError with ``mark`` and ``path`` where the answer is no.
    """

    def __init__(self, trust: Sequence[str] = ()) -> None:
        self.trust = tuple(trust)
        self._objects: dict[str, Any] = {}
        for prefix in self.trust:
            if not DOTTED.fullmatch(prefix) or _hidden(prefix):
                raise ConfigError(
                    ConfigProblem(f"{prefix!r} is not a package or a dotted name", mark=Mark(f"--trust {prefix}"))
                )

    def locate(self, target: str, mark: Mark | None = None, path: str = "") -> Any:
        """The object of a dotted name. Imports only packages that are allowed or trusted."""
        try:
            if target not in self._objects:
                self._objects[target] = self._locate(target)
            return self._objects[target]
        except _Refusal as refusal:
            raise ConfigError(ConfigProblem(refusal.message, path, mark, refusal.hint)) from None

    def import_module(self, name: str, mark: Mark | None = None, path: str = "") -> types.ModuleType:
        """A module that ``imports:`` names."""
        try:
            self._may_walk(name)
            module = self._import(name)
            if module is None:
                raise _Refusal(f"there is no module {name!r}", "is it installed, or in this folder?")
            return module
        except _Refusal as refusal:
            raise ConfigError(ConfigProblem(refusal.message, path, mark, refusal.hint)) from None

    def check_call_allowed(self, obj: Any, mark: Mark | None = None, path: str = "", target: str = "") -> None:
        """May it be called? ``target`` is the name it was located by."""
        self._judge(self._call, mark, path, obj, target)

    def check_get_allowed(self, obj: Any, mark: Mark | None = None, path: str = "", target: str = "") -> None:
        """May it be handed to somebody who may call it? Constants may, and what may be called."""
        self._judge(self._get, mark, path, obj, target)

    def check_name_allowed(self, name: str, mark: Mark | None = None, path: str = "") -> None:
        """May an attribute have this name, whatever it is of?"""
        self._judge(_name, mark, path, name)

    def check_attribute_allowed(self, obj: Any, name: str, mark: Mark | None = None, path: str = "") -> None:
        """May the attribute of a built object be read, set or called?"""
        self._judge(self._attribute, mark, path, obj, name)

    def check_set_allowed(self, obj: Any, name: str, mark: Mark | None = None, path: str = "") -> None:
        """May the attribute of a built object be set? Its methods stay what they are."""
        self._judge(self._set, mark, path, obj, name)

    def check_names_allowed(self, obj: Any, mark: Mark | None = None, path: str = "") -> None:
        """May the children of a built module have their names? torch.fx and torch.compile write them into code."""
        self._judge(self._children, mark, path, obj)

    def check_object_allowed(self, obj: Any, mark: Mark | None = None, path: str = "") -> None:
        """May a built object be asked for its items?"""
        self._judge(self._object, mark, path, obj, "an item")

    def check_value_allowed(self, value: Any, mark: Mark | None = None, path: str = "") -> None:
        """May a value taken out of a built object be handed on?"""
        self._judge(self._value, mark, path, value)

    def _judge(self, rule: Any, mark: Mark | None, path: str, *about: Any) -> None:
        try:
            rule(*about)
        except _Refusal as refusal:
            raise ConfigError(ConfigProblem(refusal.message, path, mark, refusal.hint)) from None

    def may_not_download(self, obj: Any, target: str) -> bool:
        """Is it a data set of torchvision that is not trusted?"""
        name = canonical(obj)
        return under(name, ["torchvision.datasets"]) and not self._trusted(name, target)

    # Names: what is refused before anything is imported.

    def _may_walk(self, target: str, *, whole: bool = False) -> None:
        if not DOTTED.fullmatch(target) or (whole and "." not in target):
            raise _Refusal(f"{target!r} is not a dotted path", "write one such as torch.nn.ReLU")
        if hidden := _hidden(target):
            raise _Refusal(f"{target} is blocked: {hidden!r} is private")
        self._guard(target, target)
        root = target.partition(".")[0]
        if not (allowed.may_import(root) or under(target, self.trust)):
            near = nearest(root, allowed.import_roots())
            hint = f"did you mean {near!r}? If not: " if near else ""
            raise _Refusal(
                f"{target} is blocked: {root} is not an allowed package",
                f"{hint}--trust {root} allows it, if you trust its code",
            )

    def _guard(self, name: str, shown: str) -> None:
        for prefix, reason in allowed.NEVER.items():
            if under(name, [prefix]):
                raise _Refusal(f"{shown} is blocked: {reason}")
        guard = allowed.guard_of(name)
        if guard and not any(under(prefix, [guard]) and under(name, [prefix]) for prefix in self.trust):
            raise _Refusal(
                f"{shown} is blocked: {guard} is unsafe",
                f"pass --trust {guard} only if you have read this config",
            )

    # Steps: from one name to the next.

    def _locate(self, target: str) -> Any:
        self._may_walk(target, whole=True)
        root, *names = target.split(".")
        obj: Any = self._import(root)
        if obj is None:
            raise _Refusal(
                f"{target}: there is no module {root!r}",
                f"is it in this folder, or installed? pip install {root.replace('_', '-')}",
            )
        so_far = root
        for index, name in enumerate(names):
            if isinstance(obj, types.ModuleType):
                obj = self._in_module(obj, name, last=index == len(names) - 1)
            elif isinstance(obj, type):
                self._guard(canonical(obj), target)
                obj = _in_class(obj, name, so_far)
            else:
                raise _Refusal(f"{target} is blocked: {so_far} is neither a module nor a class")
            so_far = f"{so_far}.{name}"
        if isinstance(obj, types.ModuleType):
            raise _Refusal(f"{target} is a module", "name a class or function in it")
        return obj

    def _in_module(self, module: types.ModuleType, name: str, *, last: bool) -> Any:
        full = f"{module.__name__}.{name}"
        attribute = _attribute_of(module, name)
        if attribute is _MISSING or not (last or isinstance(attribute, (types.ModuleType, type))):
            enter = hasattr(module, "__path__") and (allowed.may_enter(full) or self._trusts_below(full))
            inner = self._import(full) if enter else None
            if attribute is _MISSING and not enter and hasattr(module, "__path__") and importlib.util.find_spec(full):
                hint = f"--trust {full} allows it, if you trust its code"
                raise _Refusal(f"{full} is blocked: nothing in it is in the table of what configs may call", hint)
            attribute = inner if inner is not None else attribute
        if attribute is _MISSING:
            raise _Refusal(f"{module.__name__} has no {name!r}", _near(name, _public(module)))
        if isinstance(attribute, types.ModuleType) and sys.modules.get(full) is not attribute:
            raise _Refusal(f"{full} is blocked: {name} is not a part of {module.__name__}, which only imports it")
        return attribute

    def _import(self, name: str) -> types.ModuleType | None:
        """The module, or None where there is none of that name."""
        if name in sys.modules:
            return sys.modules[name]
        here = str(Path.cwd())
        if under(name, {prefix.partition(".")[0] for prefix in self.trust}) and not {"", here} & set(sys.path):
            sys.path.append(here)  # an installed command does not look in the folder it runs in
        try:
            return importlib.import_module(name) if importlib.util.find_spec(name) else None
        except ModuleNotFoundError as error:
            if error.name and under(name, [error.name]):
                return None
            raise _Refusal(f"{name} needs the package {error.name!r}", f"pip install {error.name}") from None
        except (Exception, SystemExit) as error:
            raise _Refusal(f"importing {name} failed: {type(error).__name__}: {error}") from None

    # Objects: what may be done with them.

    def _trusted(self, *names: str) -> bool:
        return any(under(name, self.trust) for name in names if name)

    def _trusts_below(self, module: str) -> bool:
        return under(module, self.trust) or any(under(prefix, [module]) for prefix in self.trust)

    def _call(self, obj: Any, target: str) -> None:
        name = canonical(obj)
        shown = target or name or repr(obj)
        self._guard(name, shown)
        if isinstance(obj, type):
            for base in obj.__mro__:
                if base.__module__.partition(".")[0] == "torch":
                    self._guard(canonical(base), shown)
        if not callable(obj):
            raise _Refusal(f"{shown} cannot be called", f"write !get:{target} for its value" if target else None)
        if self._trusted(target, name) or allowed.is_safe(obj, target):
            return
        hint = f"--trust {shown} allows it, if you trust its code" if target or name else None
        if not isinstance(obj, type):
            raise _Refusal(f"{shown} is blocked: only functions registered as safe are called", hint)
        if not allowed.is_kind(obj):
            raise _Refusal(f"{shown} is blocked: it is not a {_KINDS}", hint)
        if allowed.is_tabled(obj):
            raise _Refusal(f"{shown} is blocked: it is not in the table of what configs may call", hint)
        if not allowed.in_packages(obj.__module__):
            raise _Refusal(f"{shown} is blocked: {obj.__module__} is not in an allowed package", hint)

    def _get(self, obj: Any, target: str) -> None:
        if isinstance(obj, types.ModuleType):
            raise _Refusal(f"{target or canonical(obj)} is blocked: it is a module")
        if allowed.is_inert(obj):
            return
        if callable(obj) and not self._trusted(target):
            self._call(obj, target)
            return
        self._guard(canonical(obj), target or repr(obj))
        if not (self._trusted(target) or allowed.is_safe(obj, target)):
            raise _Refusal(
                f"{target} is blocked: a {type(obj).__name__} is not a constant",
                f"--trust {target} allows it, if you trust its code",
            )

    def _attribute(self, obj: Any, name: str) -> None:
        _name(name)
        cls = type(obj)
        self._object(obj, repr(name))
        owner = next((base for base in cls.__mro__ if name in vars(base)), cls)
        if owner is not object:
            self._guard(canonical(owner), f"{cls.__name__}.{name}")
        if not _is_method(inspect.getattr_static(cls, name, None)):
            return
        owners = ("torch.Tensor",) if allowed.is_tensor(cls) else (canonical(owner), canonical(cls))
        if not (
            self._trusted(*owners, *(f"{prefix}.{name}" for prefix in owners)) or allowed.may_call_method(obj, name)
        ):
            hint = f"--trust {owners[0]}.{name} allows it, if you trust its code"
            raise _Refusal(f"{cls.__name__}.{name} is blocked: it is not in the table of what configs may call", hint)

    def _set(self, obj: Any, name: str) -> None:
        self._attribute(obj, name)
        if callable(inspect.getattr_static(type(obj), name, None)):
            raise _Refusal(f"{type(obj).__name__}.{name} is blocked: it is a method, and methods are not replaced")
        if not allowed.is_module(obj):
            raise _Refusal(f"setting {name!r} of a {type(obj).__name__} is blocked: only modules' attributes are set")

    def _children(self, obj: Any) -> None:
        if not allowed.is_module(obj) or self._trusted(canonical(type(obj))):
            return
        for module in obj.modules():
            for name in (
                *module._modules.keys(),
                *module._parameters.keys(),
                *module._buffers.keys(),
            ):  # as TorchScript has
                if not (name.isidentifier() or (name.isascii() and name.isdigit())):
                    shown = name if len(name) < 40 else f"{name[:40]}..."
                    raise _Refusal(f"{shown!r} is not a name of a module: names are letters, digits and underscores")

    def _object(self, obj: Any, action: str) -> None:
        cls = type(obj)
        if isinstance(obj, _CODE):
            raise _Refusal(f"{action} of {canonical(obj)} is blocked: it is not an object that the config built")
        if self._trusted(canonical(cls)) or allowed.is_tensor(cls):
            return
        if not (allowed.is_kind(cls) and allowed.in_packages(cls.__module__)):
            hint = (
                None if cls.__module__ == "builtins" else f"--trust {canonical(cls)} allows it, if you trust its code"
            )
            raise _Refusal(f"{action} of a {cls.__name__} is blocked: it is not a {_KINDS}", hint)

    def _value(self, value: Any) -> None:
        if isinstance(value, (types.MethodType, types.BuiltinMethodType)) and not _loose(value):
            self._attribute(value.__self__, value.__name__)
        elif isinstance(value, _CODE):
            self._get(value, canonical(value))
        elif callable(value):
            self._object(value, "the call")


def _is_method(attribute: Any) -> bool:
    """Is what a class holds under a name called with an object?"""
    return callable(attribute) or isinstance(attribute, (classmethod, staticmethod, functools.partialmethod))


def _loose(function: Any) -> bool:
    """A built-in function rather than a method of an object?"""
    return function.__self__ is None or isinstance(function.__self__, types.ModuleType)


def _name(name: str) -> None:
    if hidden := _hidden(name):
        raise _Refusal(f"{hidden!r} is blocked: it is private")
    if name == "trust_remote_code":
        raise _Refusal("trust_remote_code is blocked: it runs code of the model's author")


def _hidden(target: str) -> str | None:
    """The first component with a leading underscore."""
    return next((name for name in target.split(".") if name.startswith("_")), None)


def _attribute_of(module: types.ModuleType, name: str) -> Any:
    try:
        return getattr(module, name, _MISSING)
    except Exception as error:  # a module may compute its attributes
        raise _Refusal(f"{module.__name__}.{name} cannot be read: {type(error).__name__}: {error}") from None


def _in_class(cls: type, name: str, shown: str) -> Any:
    if not (any(name in vars(base) for base in cls.__mro__) or name in getattr(cls, "__members__", ())):
        raise _Refusal(f"{shown} has no {name!r}", _near(name, _public(cls)))
    return getattr(cls, name)


def _public(obj: object) -> list[str]:
    return [name for name in dir(obj) if not name.startswith("_")]


def _near(name: str, names: Sequence[str]) -> str | None:
    near = next((candidate for candidate in names if candidate.lower() == name.lower()), None) or nearest(name, names)
    return f"did you mean {near!r}?" if near else None
