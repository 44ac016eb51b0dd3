"""The student as files that outlive this project: plain weights, a description that rebuilds the model, its lineage."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from kd_core.files import TEMPORARY, sync_folder, write_bytes, write_errors, write_text


def write_student(
    folder: Path, state: Mapping[str, Any], description: str, beside: Callable[[Path], None] = lambda _: None
) -> None:
    """Write ``model.safetensors`` and ``model.yaml`` into ``folder``, both or none.

    ``beside`` adds what else belongs there.

    The weights have every name of ``state``, a state_dict, so ``load_state_dict`` takes them as they are. Equal weights
    give equal bytes. RunInterrupted where the disk does not take them.
    """
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with write_errors(f"the student to {folder}"):
            temporary.mkdir()
            weights = safetensors.torch.save(plain_weights(state), {"format": "pt"})
            write_bytes(temporary / "model.safetensors", weights)
            write_text(temporary / "model.yaml", description)
            beside(temporary)
            shutil.rmtree(folder, ignore_errors=True)
            temporary.replace(folder)
            sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def plain_weights(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state_dict's tensors on the CPU, each contiguous and with memory of its own, tied ones included."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
