"""Parameters spread over processes by FSDP2 (``fully_shard``): whole to score and to save, cut again to load.

Where nothing is sharded, every function here does what plain PyTorch does.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kd_core.taps.nested import map_tensors


def is_sharded(value: Any, module: str, cls: str) -> bool:
    """Whether this is a ``cls`` of ``torch.distributed.module``: where nobody has imported that, nothing is sharded.

    Its import takes a second, which only runs that shard pay.
    """
    imported = sys.modules.get(f"torch.distributed.{module}")
    return imported is not None and isinstance(value, getattr(imported, cls))


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """The parameters of ``module`` as plain, whole tensors, until a state_dict is asked for.

    Every process must enter.
    """
    shards: list[Any] = [submodule for submodule in module.modules() if is_sharded(submodule, "fsdp", "FSDPModule")]
    for shard in shards:
        shard.unshard()
    try:
        yield
    finally:
        for shard in shards:
            shard.reshard()


def full_state_dict(state: Any) -> Any:
    """A nested state with every sharded tensor whole. Every process must ask."""
    return map_tensors(
        lambda tensor: tensor.full_tensor() if is_sharded(tensor, "tensor", "DTensor") else tensor, state
    )


def load_full_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``module.load_state_dict(state)``, of whole tensors, where the module's own may be sharded."""
    current = module.state_dict()
    module.load_state_dict({name: shard_like(value, current.get(name)) for name, value in state.items()})


def load_full_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict(state)``, of whole tensors, where its parameters may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {key: shard_like(value, parameters[number]) for key, value in entries.items()}
        for number, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})


def shard_like(value: Any, like: Any) -> Any:
    """A whole tensor, sharded as ``like`` of the same shape is; anything else as it is."""
    if not is_sharded(like, "tensor", "DTensor") or not isinstance(value, torch.Tensor) or value.shape != like.shape:
        return value
    if is_sharded(value, "tensor", "DTensor"):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def release_process_groups() -> None:
    """Have every device mesh let go of its process groups; none can communicate after it.

    DTensor's caches keep the meshes, and with them the groups' threads, until the interpreter ends.
    """
    if meshes := sys.modules.get("torch.distributed.device_mesh"):
        for mesh in [each for each in gc.get_objects() if type(each) is meshes.DeviceMesh]:
            getattr(mesh, "_pg_registry", {}).clear()
