"""Puts a weight file where its download would, in a layout that torchdistill saves.

python tests/zoo/make_weights.py resnet20 --layout checkpoint --state runs/my/student/model.safetensors

The layouts are those of torchdistill 1.1.5: its CIFAR files are state dicts alone; ``save_ckpt`` of its
``common/main_util.py`` writes a whole checkpoint; a model in DistributedDataParallel has ``module.`` before every key.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd_core.models.weights import read_state

State = Mapping[str, Tensor]


def checkpoint(state: State) -> dict[str, Any]:
    """The weights among what a training needs to go on."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    return {
        "model": dict(state),
        "optimizer": optimizer.state_dict(),
        "best_value": 91.92,
        "lr_scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [91, 136]).state_dict(),
        "args": argparse.Namespace(config="resnet20.yaml", device="cuda", world_size=1, seed=None),
    }


LAYOUTS: dict[str, Callable[[State], Mapping[str, Any]]] = {
    "plain": dict,
    "parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "checkpoint": checkpoint,
}


def put(name: str, state: State | None = None, layout: str = "plain", data: str | None = None) -> Path:
    """Writes the file of the weights ``name`` with ``state``, or with random weights; returns its path."""
    import kd_zoo.models  # noqa: F401
    from kd_core.models.registry import MODELS
    from kd_zoo.cards import card, weights_path

    wanted = card(name, data)
    path = weights_path(wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    given = MODELS.get(wanted.arch)(**wanted.parameters).state_dict() if state is None else state
    torch.save(LAYOUTS[layout](given), path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--data")
    parser.add_argument("--layout", choices=LAYOUTS, default="plain")
    parser.add_argument("--state", type=Path, help="a file of the model's state dict; random weights without it")
    given = parser.parse_args()
    state = read_state(given.state) if given.state else None
    print(put(given.name, state, given.layout, given.data))


if __name__ == "__main__":
    main()
