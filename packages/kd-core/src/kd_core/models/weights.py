"""Reading weight files and putting them into models, with nothing missing passed over."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.parameter import is_lazy

from kd_core.errors import KDError

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Keys under which training scripts keep a model's state dict in a checkpoint."""
ANYWHERE = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts that wrappers (DataParallel, torch.compile, FSDP) put into the names of weights, wherever a module is wrapped.
"""
LEADING = ("model", "_model", "net", "network", "backbone", "encoder", "student")
"""Attributes in which training scripts and Lightning modules keep a model: what the names of its weights begin with."""
INERT = ("numpy", "pathlib", "argparse", "collections", "datetime", "omegaconf", "lightning", "pytorch_lightning")
"""Packages of which values may lie beside the weights. They are not made: an empty object stands for each."""
MOST_INERT = 64
"""Kinds of such values at most: for each, the file is read once more."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors or torch file; nothing but tensors and plain values is ever unpickled.

    KDError where the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise KDError(f"there is no weight file {path}")
    try:
        state = _read(path)
    except Exception as error:  # a damaged file makes torch's unpickler raise anything
        raise KDError(f"{path} is not a readable weight file: {_reason(error)}") from None
    while (inner := _wrapped(state)) is not None:
        state = inner
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)} if _is_mapping(state) else {}
    if not tensors:
        raise KDError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    return tensors


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _wrapped(state: Any) -> Any:
    """What a checkpoint holds under the first of :data:`WRAPPERS`, None where it has none of them."""
    if not isinstance(state, Mapping):
        return None
    return next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load, load_file

        utf8 = str(path).encode(errors="replace").decode() == str(path)
        return load_file(path) if utf8 else load(path.read_bytes())  # whose names of files are UTF-8
    stubs: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(stub, name) for name, stub in stubs.items()]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            name = _refused(error)
            inert = name is not None and name not in stubs and name.partition(".")[0] in INERT
            if name is None or not inert or len(stubs) == MOST_INERT:
                raise
            stubs[name] = type("Inert", (_Inert,), {})


class _Inert:
    """Stands for a value beside the weights, whatever it is made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _refused(error: Exception) -> str | None:
    """The global that torch refused to unpickle, None for another error."""
    match = re.search(r"GLOBAL ([\w.]+)", str(error))
    return None if match is None else match[1]


def _reason(error: Exception) -> str:
    """The first line of an error, or what torch refused to unpickle."""
    if (name := _refused(error)) is not None:
        return f"it holds {name}, not only tensors and plain values"
    if isinstance(error, (SafetensorError, OSError)):
        return str(error)
    return "torch.save did not write it, or not to its end"


def rename_modules(state: Mapping[str, Tensor], rename: Mapping[str, str]) -> dict[str, Tensor]:
    """``state`` with modules by the names that ``rename`` maps theirs to, whatever stands before them."""
    names = {}
    for key in state:
        name = f".{key}"
        for theirs, ours in rename.items():
            name = name.replace(f".{theirs}.", f".{ours}.")
        names[key] = name[1:]
    return {names[key]: value for key, value in state.items()}


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str, *, new_head: bool = False) -> list[str]:
    """Copy ``state`` into ``model``; KDError with every key that does not fit.

    Returns the modules that keep their own values. Keys may begin with what wrappers and training scripts put before
    them, see :func:`unwrapped`, and modules may have the names that the model's ``renamed_weights`` maps to theirs.

    ``new_head`` keeps the model's own values where shapes differ or keys are missing: within one module only, or where
    nothing but the number of outputs differs, as in the classifiers of a model that goes to other classes. Weights
    whose keys begin with one of the model's ``spare_weights`` may be there for a part that it was built without.
    """
    expected = model.state_dict()
    state = _renamed(unwrapped(state, expected), getattr(model, "renamed_weights", {}), expected)
    lazy = {key for key, value in expected.items() if is_lazy(value)}  # of any shape
    wrong = {
        key: f"has shape {tuple(state[key].shape)}, the model {tuple(expected[key].shape)}"
        for key in expected
        if key in state and key not in lazy and state[key].shape != expected[key].shape
    }
    wrong |= {key: "is missing" for key in expected if key not in state and not key.endswith("num_batches_tracked")}
    spare: tuple[str, ...] = getattr(model, "spare_weights", ())
    unknown = [key for key in state if key not in expected and not key.startswith(spare)]
    heads: dict[str, None] = {}
    if new_head:
        heads = dict.fromkeys(key.rpartition(".")[0] for key in wrong)
        unknown = [key for key in unknown if key.rpartition(".")[0] not in heads]
        resized = all(key in state and _differ_in_outputs(model, key, state[key], expected[key]) for key in wrong)
        if (len(heads) == 1 or resized) and not unknown:
            wrong = {}
    if wrong or unknown:
        lines = [f"{key} {reason}" for key, reason in wrong.items()] + [f"{key} is not in the model" for key in unknown]
        shown = "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")
        hint = None if new_head else "`new_head: true` keeps a freshly initialised last layer"
        raise KDError(f"{source} does not fit {type(model).__name__}: {shown}", hint=hint)
    fitting = {
        key: value
        for key, value in state.items()
        if key in lazy or (key in expected and value.shape == expected[key].shape)
    }
    model.load_state_dict(fitting, strict=False)
    return list(heads)


def _differ_in_outputs(model: nn.Module, key: str, theirs: Tensor, ours: Tensor) -> bool:
    """Whether two tensors of one name differ in nothing but the number of their module's outputs."""
    module = model.get_submodule(key.rpartition(".")[0])
    axis = 1 if isinstance(module, _ConvTransposeNd) and ours.ndim > 1 else 0
    shapes = [[size for index, size in enumerate(tensor.shape) if index != axis] for tensor in (theirs, ours)]
    return theirs.ndim == ours.ndim and shapes[0] == shapes[1]


def _renamed(state: Mapping[str, Tensor], names: Mapping[str, str], expected: Collection[str]) -> dict[str, Tensor]:
    """``state`` with modules that ``names`` holds by the names that it maps them to, where those are expected."""
    renamed = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        now = f"{names.get(module, module)}.{leaf}"
        renamed[now if key not in expected and now in expected else key] = value
    return renamed


def state_digest(state: Mapping[str, Any]) -> str:
    """A hash of the names, types, shapes and contents of a state dict: 16 hex digits."""
    sha256 = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, Tensor) and not is_lazy(value):
            sha256.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            sha256.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()[:16]


def unwrapped(state: Mapping[str, Tensor], expected: Collection[str]) -> dict[str, Tensor]:
    """``state`` by the names that a model's weights have, of which ``expected`` are all.

    A name becomes the expected one that is left when parts of :data:`ANYWHERE`, and leading ones of :data:`LEADING`,
    are taken out; a name that becomes none loses the beginning that most others lost. No two names become one. Numbers
    that stand beside the weights, such as an epoch, are left out.
    """
    state = {key: value for key, value in state.items() if key in expected or "." in key or value.ndim}
    chosen = {key: key for key in state if key in expected}
    beginnings: Counter[str] = Counter()
    for key in state.keys() - chosen.keys():
        name = next((name for name in _shortened(key) if name in expected), None)
        if name is not None and name not in chosen.values():
            chosen[key] = name
            beginnings[key[: -len(name)] if key.endswith(name) else ""] += 1
    common = beginnings.most_common(1)[0][0] if beginnings else ""
    return {chosen.get(key) or _fallback(key, common, state): value for key, value in state.items()}


def _shortened(key: str) -> Iterator[str]:
    """``key`` without the parts that wrappers put in, then without each leading part of :data:`LEADING`."""
    parts = [part for part in key.split(".") if part not in ANYWHERE]
    yield ".".join(parts)
    while len(parts) > 1 and parts[0] in LEADING:
        parts = parts[1:]
        yield ".".join(parts)


def _fallback(key: str, beginning: str, taken: Collection[str]) -> str:
    """A name that is not expected: without the beginning of the others, unless another weight has that name."""
    name = key.removeprefix(beginning)
    return key if name in taken else name
