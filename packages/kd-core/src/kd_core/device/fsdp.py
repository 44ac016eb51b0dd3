"""Parameters spread over processes by FSDP2 (``fully_shard``): whole to score and to save, cut again to load.

Where nothing is sharded, every function here does what plain PyTorch does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from kd_core.taps.nested import map_tensors


@contextmanager
def unsharded(module: nn.Module) -> Iterator[None]:
    """The parameters of ``module`` as plain, whole tensors, until a state_dict is asked for.

    Every process must enter.
    """
    shards = [each for each in module.modules() if isinstance(each, FSDPModule)]
    for each in shards:
        each.unshard()
    try:
        yield
    finally:
        for each in shards:
            each.reshard()


def full_state_dict(state: Any) -> Any:
    """A nested state with every sharded tensor whole. Every process must ask."""
    return map_tensors(lambda tensor: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor, state)


def load_full_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``module.load_state_dict(state)``, of whole tensors, where the module's own may be sharded."""
    own = module.state_dict()
    module.load_state_dict({name: shard_like(value, own.get(name)) for name, value in state.items()})


def load_full_optimizer_state(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict(state)``, of whole tensors, where its parameters may be sharded."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    cut = {
        number: {key: shard_like(value, parameters[number]) for key, value in each.items()}
        for number, each in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": cut})


def shard_like(value: Any, own: Any) -> Any:
    """A whole tensor cut as ``own``, of the same shape, is; anything else as it is."""
    if not isinstance(own, DTensor) or not isinstance(value, torch.Tensor) or value.shape != own.shape:
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
