"""Reading weight files and putting them into models, with nothing missing passed over."""

from __future__ import annotations

import hashlib
import re
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kd_core.errors import KDError

WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
"""Keys under which training scripts keep a model's state dict in a checkpoint."""


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
    for key in WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise KDError(f"{path} does not hold a state dict (a mapping of names to tensors)")
    prefix = "module."
    wrapped = all(key.startswith(prefix) for key in state)
    return {key[len(prefix) :] if wrapped else key: value for key, value in state.items()}


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    with torch.serialization.safe_globals([Namespace]):  # training scripts keep their arguments beside the weights
        return torch.load(path, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    """The first line of an error, or what torch refused to unpickle."""
    if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return f"it holds {refused[1]}, not only tensors and plain values"
    if isinstance(error, (SafetensorError, OSError)):
        return str(error)
    return "torch.save did not write it, or not to its end"


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str, *, new_head: bool = False) -> None:
    """Copy ``state`` into ``model``; KDError with every key that does not fit.

    ``new_head`` keeps the model's own values where shapes differ or keys are missing: within one module only, or where
    nothing but the number of outputs differs, as in the classifiers of a model that goes to other classes. Weights
    whose keys begin with one of the model's ``spare_weights`` may be there for a part that it was built without.
    """
    expected = model.state_dict()
    lazy = {key for key, value in expected.items() if is_lazy(value)}  # of any shape
    wrong = {
        key: f"has shape {tuple(state[key].shape)}, the model {tuple(expected[key].shape)}"
        for key in expected
        if key in state and key not in lazy and state[key].shape != expected[key].shape
    }
    wrong |= {key: "is missing" for key in expected if key not in state and not key.endswith("num_batches_tracked")}
    spare: tuple[str, ...] = getattr(model, "spare_weights", ())
    unknown = [key for key in state if key not in expected and not key.startswith(spare)]
    if new_head:
        heads = {key.rpartition(".")[0] for key in wrong}
        unknown = [key for key in unknown if key.rpartition(".")[0] not in heads]
        resized = all(key in state and state[key].shape[1:] == expected[key].shape[1:] for key in wrong)
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


def state_digest(state: Mapping[str, Any]) -> str:
    """A hash of the names, types, shapes and contents of a state dict: 16 hex digits."""
    sha256 = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, Tensor) and not is_lazy(value):
            sha256.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
            sha256.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()[:16]
