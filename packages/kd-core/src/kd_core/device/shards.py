"""Tensors of a state that are spread over processes, in files of their own: each process writes what it has.

The files are those of ``torch.distributed.checkpoint``, which cuts them anew where another number of processes reads.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_core.device.distributed import world_size
from kd_core.device.fsdp import is_sharded
from kd_core.errors import KDError

MARK = "in the shards"
"""The key of what stands in a state for a tensor that is in the shards; its value is the tensor's place."""
METADATA = "torch.distributed.checkpoint.metadata"
ALLOWED = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "WindowsPath"},
}
"""What the description of shards may name, beside types of numbers and what its own module has."""


def taken(value: Any, tensors: dict[str, Tensor], path: str = "") -> Any:
    """A nested state with a mark for each tensor that is spread over processes; these come into ``tensors``."""
    if is_sharded(value, "tensor", "DTensor"):
        tensors[path] = value
        return {MARK: path}
    if isinstance(value, Mapping):
        return {key: taken(item, tensors, f"{path}/{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(taken(item, tensors, f"{path}/{number}") for number, item in enumerate(value))
    return value


def marks(value: Any) -> list[str]:
    """The places of the tensors that a state has marks for."""
    if isinstance(value, Mapping):
        return [value[MARK]] if value.keys() == {MARK} else [mark for item in value.values() for mark in marks(item)]
    return [mark for item in value for mark in marks(item)] if isinstance(value, (list, tuple)) else []


def put(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The state that :func:`taken` took apart."""
    if isinstance(value, Mapping):
        if value.keys() == {MARK}:
            return tensors[value[MARK]]
        return {key: put(item, tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(put(item, tensors) for item in value)
    return value


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write each process's part of the tensors into a folder. Every process must call it."""
    import torch.distributed.checkpoint as dcp

    dcp.save(dict(tensors), checkpoint_id=str(folder))


def read(folder: Path, places: list[str], like: Callable[[str], Tensor]) -> dict[str, Tensor]:
    """The tensors at some places, spread as ``like`` of a place is. Every process must call it.

    KDError where the description is none of shards; LookupError, ValueError or RuntimeError where they do not fit.
    """
    import torch.distributed.checkpoint as dcp

    with (folder / ".metadata").open("rb") as file:
        metadata = _Unpickler(file).load()
    metadata.storage_meta = None

    class Reader(dcp.FileSystemReader):
        """A reader of what the pickled description was found to be: descriptions alone."""

        def read_metadata(self, *args: Any, **options: Any) -> Any:
            return metadata

    tensors = {place: torch.empty_like(like(place)) for place in places}
    with warnings.catch_warnings():  # that one process reads what several wrote
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        dcp.load(dict(tensors), storage_reader=Reader(str(folder)), no_dist=world_size() == 1)
    return tensors


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a description names; KDError for anything else, which could be code."""
        value = super().find_class(module, name) if module in {METADATA, *ALLOWED} else None
        if module == METADATA and (isinstance(value, type) or name.startswith("_MEM_FORMAT_ENCODING")):
            if getattr(value, "__module__", METADATA) == METADATA:
                return value
        elif name in ALLOWED.get(module, ()) or isinstance(value, torch.dtype):
            return value
        raise KDError(f"the description of a checkpoint's shards names {module}.{name}, which is none of its types")


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in a folder, by name."""
    sums = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            sums[path.name] = _digest(file)
    return sums


def _digest(file: Any) -> str:
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()
