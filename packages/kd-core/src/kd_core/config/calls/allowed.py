"""Which names a config may use without ``--trust``, and which it may not use at all.

It limits what a stranger's config can do; it is no sandbox.
"""

from __future__ import annotations

import enum
import functools
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, overload

T = TypeVar("T")

_PACKAGES = {
    *("kd_core", "kd_zoo", "kd_vision", "kd_seg", "kd_glue", "torch.nn", "torch.optim", "torch.utils.data"),
    *("torchvision.datasets", "torchvision.models", "torchvision.ops", "torchvision.transforms", "timm.optim"),
}
"""Where classes of the right kind (:func:`is_kind`) may be called; those of torch and torchvision stand in
:data:`TABLE`, too."""

_TABLED = ("torch", "torchvision")
"""The packages of which nothing is allowed but what is in :data:`TABLE`."""

TABLE = frozenset(
    line for line in Path(__file__).with_name("allowed.txt").read_text("utf-8").splitlines() if not line.startswith("#")
)
"""The names of torch and torchvision that any config may use: callables, and methods of built objects
(``torch.nn.modules.module.Module:eval``) by the class that defines them. ``scripts/make_allowed.py`` writes it."""

_SAFE: set[str] = set()
"""Functions and methods that packages say read and write no file and run nothing they are given by name."""

_SAFE_OBJECTS: dict[int, object] = {}

NEVER = {
    "torch.hub": "it downloads code and runs it",
    "torch.utils.model_zoo": "it downloads and unpickles",
    "torch.load": "it unpickles, and a pickle runs code",
    "torch.serialization": "it unpickles, and a pickle runs code",
    "torch.jit.load": "it loads code",
    "torch.jit._serialization": "it loads code",
    "torch.export.load": "it loads code",
    "torch.package": "it loads code",
    "torch.ops": "it loads libraries",
    "torch._ops": "it loads libraries",
    "torch.classes": "it loads libraries",
    "torch._classes": "it loads libraries",
    "torch.utils.cpp_extension": "it compiles and loads code",
    "torch.distributed.rpc": "it runs code on other machines",
    "torch.distributed.nn": "it runs code on other machines",
}
"""Refused whatever is trusted, under every name they can be reached by."""

_GUARDED = {
    *("torch.distributed", "torch.export", "torch.fx", "torch.jit", "torch.multiprocessing", "torch.onnx"),
    *("torch.testing", "torch.from_file", "torch.storage"),
    "torch.utils.data.datapipes",  # open files, unpickle
    "torchvision.models.feature_extraction",  # writes names into code
    *("torchvision.datasets.lsun", "torchvision.datasets.LSUN", "torchvision.datasets.LSUNClass"),  # unpickle
    *("builtins", "os", "subprocess", "sys", "importlib", "imp", "runpy", "code", "codeop", "ctypes", "pickle"),
    *("marshal", "shelve", "dill", "cloudpickle", "joblib", "shutil", "pathlib", "io", "tempfile", "socket", "ssl"),
    *("http", "urllib", "requests", "webbrowser", "multiprocessing", "threading", "concurrent", "asyncio", "pty"),
    *("signal", "gc", "inspect", "types", "operator", "site", "pdb", "timeit"),
}
"""Need a trust prefix that names them or something in them; trusting what re-exports them is not enough."""

_FRONTS = {
    **dict.fromkeys(("posix", "nt", "posixpath", "ntpath"), "os"),
    "_io": "io",
    "_pickle": "pickle",
    "_ctypes": "ctypes",
    "_operator": "operator",
    "_frozen_importlib": "importlib",
}
"""The modules that users know by another name."""


@overload
def allow(item: str) -> str: ...
@overload
def allow(item: T) -> T: ...
def allow(item: Any) -> Any:
    """Register a function or class as safe to call from any config; usable as a decorator.

    A dotted name registers what has that name and, for a module or class, the functions defined in it.
    """
    if isinstance(item, str):
        _SAFE.add(item)
    else:
        _SAFE_OBJECTS[id(item)] = item
    return item


def allow_package(name: str) -> None:
    """Let configs call the Modules, Optimizers, LRSchedulers, Datasets, Samplers and transforms of a package."""
    _PACKAGES.add(name)


def under(name: str, prefixes: Iterable[str]) -> bool:
    """Is ``name`` one of the prefixes, or in one? Whole components count: ``osx`` is not in ``os``."""
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def may_import(root: str) -> bool:
    """Does anything allowed live in this top-level package?"""
    return any(name.partition(".")[0] == root for name in (*_PACKAGES, *_SAFE))


def import_roots() -> list[str]:
    return sorted({name.partition(".")[0] for name in _PACKAGES})


def in_packages(name: str) -> bool:
    return under(name, _PACKAGES)


def is_safe(obj: object, target: str) -> bool:
    """Is it registered, or in the table: itself, by where it is defined, or by its path?"""
    if id(obj) in _SAFE_OBJECTS or target in _SAFE or target in TABLE:
        return True
    name = canonical(obj)
    return name in TABLE or under(name, _SAFE) or (isinstance(obj, types.BuiltinFunctionType) and under(target, _SAFE))


def guard_of(name: str) -> str | None:
    """The guarded prefix over ``name``."""
    return next((prefix for prefix in _GUARDED if under(name, [prefix])), None)


def canonical(obj: object) -> str:
    """Where a class, function or method is defined, as a dotted name; empty for other objects."""
    if isinstance(obj, functools.partial):
        return canonical(obj.func)
    if isinstance(obj, types.ModuleType):
        return obj.__name__
    name = getattr(obj, "__qualname__", None)
    if not isinstance(name, str):
        return ""
    module = getattr(obj, "__module__", None)
    if module is None:  # a method written in C
        owner = getattr(obj, "__objclass__", getattr(obj, "__self__", None))
        module = owner.__module__ if isinstance(owner, type) else "builtins"
    return f"{_FRONTS.get(module, module)}.{name}"


def is_kind(cls: type) -> bool:
    """A Module, Optimizer, LRScheduler, Dataset, Sampler or torchvision transform?"""
    if cls.__module__ in ("torchvision.transforms.transforms", "torchvision.transforms.autoaugment"):
        return True
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    data = torch.utils.data
    return issubclass(
        cls, (torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, data.Dataset, data.Sampler)
    )


def is_tabled(cls: type) -> bool:
    """Is it a class of which :data:`TABLE` says whether it may be called?"""
    return under(cls.__module__, _TABLED)


def may_enter(module: str) -> bool:
    """May this module be imported on the way to a name? Those of torch and torchvision where the table leads there."""
    return not under(module, _TABLED) or any(name.startswith(f"{module}.") for name in (*TABLE, *_SAFE))


def may_call_method(obj: object, name: str) -> bool:
    """Is this method of a built object in the table, or registered, under any class that the object derives from?"""
    names = {f"{canonical(base)}:{name}" for base in type(obj).__mro__}
    if is_tensor(type(obj)):
        names.add(f"torch.Tensor:{name}")
    return not names.isdisjoint(TABLE) or any(method.replace(":", ".") in _SAFE for method in names)


def is_tensor(cls: type) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(cls, torch.Tensor) and cls.__module__.partition(".")[0] == "torch"


def is_module(obj: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(obj, torch.nn.Module)


def is_inert(obj: object) -> bool:
    """A constant: nothing can be called through it."""
    if obj is None or isinstance(obj, (bool, int, float, complex, str, enum.Enum)):
        return True
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(
        obj, (torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size)
    )
