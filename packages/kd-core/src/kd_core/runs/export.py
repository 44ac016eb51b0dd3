"""The student as files that outlive this project: plain weights, and a description that rebuilds the model."""

from __future__ import annotations

import io
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
    """Write ``model.safetensors``, ``model.pt`` and ``model.yaml`` into ``folder``, all of them or none.

    ``beside`` adds what else belongs there.

    Both weight files hold every name of ``state``, a state_dict, so ``load_state_dict`` takes either as it is.
    Equal weights give equal bytes. RunInterrupted where the disk does not take them.
    """
    weights = plain_weights(state)
    pickled = io.BytesIO()
    torch.save(weights, pickled)
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with write_errors(f"the student to {folder}"):
            temporary.mkdir()
            write_bytes(temporary / "model.safetensors", safetensors.torch.save(weights, {"format": "pt"}))
            write_bytes(temporary / "model.pt", pickled.getvalue())
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
