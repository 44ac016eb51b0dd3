"""The student as files that outlive this project: plain weights, and a description that rebuilds the model."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.files import TEMPORARY, sync_folder, write_bytes, write_text


def write_student(folder: Path, module: nn.Module, description: str) -> None:
    """Write ``model.safetensors``, ``model.pt`` and ``model.yaml`` into ``folder``, all of them or none.

    Both weight files hold every name of the module's state_dict, so ``load_state_dict`` takes either as it is.
    Equal weights give equal bytes. KDError where the disk does not take them.
    """
    weights = plain_weights(module)
    pickled = io.BytesIO()
    torch.save(weights, pickled)
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        write_bytes(temporary / "model.safetensors", safetensors.torch.save(weights, {"format": "pt"}))
        write_bytes(temporary / "model.pt", pickled.getvalue())
        write_text(temporary / "model.yaml", description)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.replace(folder)
        sync_folder(folder.parent)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise KDError(f"cannot write the student to {folder}: {error.strerror}") from error


def plain_weights(module: nn.Module) -> dict[str, Tensor]:
    """The state_dict's tensors on the CPU, each contiguous and with memory of its own, tied ones included."""
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }


def model_card(name: str, metrics: Mapping[str, float], description: str, command: str) -> str:
    """Markdown that says how good the student is and how to load it with plain torch."""
    rows = "\n".join(f"| {metric} | {value:.6g} |" for metric, value in metrics.items())
    return f"""# {name}

| metric | value |
|---|---|
{rows}

The student's weights, in plain PyTorch (`student/model.safetensors` holds the same tensors):

```python
import torch

weights = torch.load("student/model.pt", weights_only=True)
model.load_state_dict(weights)  # `model` is what student/model.yaml describes
```

In another config, as a teacher or to go on from: `{{run: <this folder>}}`.

`student/model.yaml`:

```yaml
{description.strip()}
```

Made by `{command}`. `config.yaml` is the whole experiment, `manifest.json` says on what it ran.
"""
