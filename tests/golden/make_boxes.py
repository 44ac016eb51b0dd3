"""Makes boxes/*.json: the first losses of torchdistill 1.1.5's boxes on the files of families.py.

    python tests/golden/make_boxes.py REPOS [NAME...]

torchdistill is imported: a folder with ``pip install --no-deps --target DIR torchdistill==1.1.5`` on PYTHONPATH.
"""

from __future__ import annotations

import copy
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES, fill, prepare, text
from recipes import Golden, MissingError, command
from torchvision import models

VERSION = "1.1.5"


def box_losses(name: str, repos: Path) -> list[dict[str, Any]]:
    """The losses of the first five steps of a family's box."""
    try:
        import torchdistill
        from torchdistill.common import yaml_util
        from torchdistill.core.distillation import get_distillation_box
    except ImportError:
        raise MissingError(f"torchdistill {VERSION} is not on PYTHONPATH") from None
    if torchdistill.__version__ != VERSION:
        raise MissingError(f"torchdistill {VERSION} is wanted, not {torchdistill.__version__}")
    torch.set_default_dtype(torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        prepare(root)
        file = root / "family.yaml"
        file.write_text(text(name, root), encoding="utf-8")
        config = yaml_util.load_yaml_file(str(file))
        built = {}
        for role in ("teacher", "student"):
            spec = config["models"][f"{role}_model"]
            built[role] = getattr(models, spec["key"])(**spec["kwargs"])
            built[role].load_state_dict(torch.load(spec["src_ckpt"]))
        device = torch.device("cpu")
        box = get_distillation_box(
            built["teacher"],
            built["student"],
            config["datasets"],
            copy.deepcopy(config["train"]),
            device,
            None,
            False,
            1,
        )
        return [{"version": VERSION, "losses": _train(box, built)}]


def _train(box: Any, built: dict[str, Any]) -> list[float]:
    own = {id(parameter) for model in built.values() for parameter in model.parameters()}
    kept: set[str] = set()
    losses = []
    for epoch in range(box.num_epochs):
        for model in (box.teacher_model, box.student_model):
            for name, parameter in model.named_parameters():
                loaded = "paraphraser" in name and name in kept
                if id(parameter) not in own and not loaded:
                    fill(name, parameter)
                own.add(id(parameter))
                kept.add(name)
        box.pre_epoch_process(epoch=epoch)
        for sample_batch, targets, supp_dict in box.train_data_loader:
            loss = box.forward_process(sample_batch, targets, supp_dict)
            losses.append(loss.item())
            box.post_forward_process(loss=loss)
        box.post_epoch_process()
    return losses


GOLDENS: dict[str, Golden] = {f"boxes/{name}": partial(box_losses, name) for name in FAMILIES}

if __name__ == "__main__":
    command(globals())
