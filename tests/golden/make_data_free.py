"""Makes losses/*.json and methods/*.json of DAFL.

    python tests/golden/make_data_free.py REPOS [NAME...]

As make_losses.py, whose words these are.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from make_methods import loop, uncalled
from recipes import Case, Golden, Input, Reference, Tensors, command, digits, load_part, number, weigh
from torch import Tensor, nn
from torch.nn import functional as F

DAFL = (
    "huawei-noah/Data-Efficient-Model-Compression",
    "5e8f4e4cd361778a1d43772f4bb032de2d874393",
    "DAFL/DAFL-train.py",
)
WEIGHTS = {"oh": 0.7, "ie": 5.0, "a": 0.3}


def step(code: Any, given: Tensors, **functions: Any) -> dict[str, Any]:
    """The names that a step of their loop leaves, whose generator, teacher and student give what is ``given``."""
    logits = given.get("logits", torch.ones(2, 3))
    features, student = given.get("features", torch.zeros(2, 1)), given.get("student", torch.ones_like(logits))
    net = nn.Module()
    net.forward = lambda images: student  # type: ignore[method-assign,assignment]
    optimizer = SimpleNamespace(zero_grad=lambda: None)
    names = {
        "opt": SimpleNamespace(batch_size=2, latent_dim=1, **WEIGHTS),
        "net": net, "Variable": lambda tensor: tensor, "optimizer_G": optimizer, "optimizer_S": optimizer,
        "generator": lambda noise: noise, "teacher": lambda images, out_feature: (logits, features),
        "criterion": F.cross_entropy, "kdloss": lambda student, teacher: torch.zeros(()), **functions,
    }  # fmt: skip
    return code(names)  # type: ignore[no-any-return]


LOOP = (*DAFL, "for i in range(120)")
REFERENCES = {
    "entropy": Reference(
        *LOOP, lambda code, given, values: step(code, {"logits": given["input"]})["loss_information_entropy"]
    ),
    "activation": Reference(
        *LOOP, lambda code, given, values: step(code, {"features": given["input"]})["loss_activation"]
    ),
}
CASES = {
    "information_entropy": [
        Case("entropy", {"input": Input(shape, seed, -4.0, 4.0)}, {})
        for shape, seed in (((4, 6), 1300), ((2, 3), 1301), ((1, 5), 1302))
    ],
    "feature_activation": [
        Case("activation", {"input": Input(shape, seed, -1.0, 1.0)}, {})
        for shape, seed in (((4, 6), 1310), ((3, 2, 2), 1311), ((1, 5), 1312))
    ],
}


def load(reference: Reference, repos: Path) -> Any:
    """The statements of their loop."""
    return loop(reference, repos)


def step_record(seed: int, batch: int, classes: int, repos: Path) -> dict[str, Any]:
    """The whole loss of a step, for logits and features of the teacher and logits of the student."""
    reference = Reference(*LOOP, uncalled)
    kdloss = load_part(Reference(*DAFL, "kdloss", uncalled), repos)
    inputs = {
        "logits": Input((batch, classes), seed, -3.0, 3.0),
        "features": Input((batch, 7), seed + 1, -1.0, 1.0),
        "student": Input((batch, classes), seed + 2, -3.0, 3.0),
    }
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    loss = step(loop(reference, repos), given, kdloss=kdloss)["loss"]
    loss.backward()
    return {
        **where(reference),
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "weights": WEIGHTS,
        "value": number(loss.item()),
        "gradients": {name: digits(each.grad) for name, each in given.items()},
    }


def generator_record(seed: int, batch: int, channels: int, size: int, latent: int, repos: Path) -> dict[str, Any]:
    """Images of their generator for noise, and what the mean of their squares times a ramp gives its weights."""
    reference = Reference(*DAFL, "Generator", uncalled)
    opt = SimpleNamespace(img_size=size, latent_dim=latent, channels=channels)
    module = load_part(reference, repos, opt=opt)().train()
    weigh(module, 400)
    noise = Input((batch, latent), seed, -2.0, 2.0)
    given = noise.tensor().requires_grad_()
    images = module(given)
    (images * ramp(images)).square().mean().backward()
    return {
        **where(reference),
        "noise": asdict(noise),
        "shape": [batch, channels, size, size],
        "images": digits(images),
        "gradient": digits(given.grad),
        "of_weights": [summary(each.grad) for each in module.parameters()],
    }


def ramp(images: Tensor) -> Tensor:
    """Another number for each pixel: the mean square of normalised images is a constant."""
    return torch.linspace(0.0, 1.0, images.numel(), dtype=images.dtype).view_as(images)


def summary(gradient: Tensor | None) -> list[float]:
    """A gradient of many elements: its sum, the sum of its magnitudes, its first and its last element."""
    assert gradient is not None
    return digits(torch.stack([gradient.sum(), gradient.abs().sum(), gradient.flatten()[0], gradient.flatten()[-1]]))


def where(reference: Reference) -> dict[str, str]:
    return {name: getattr(reference, name) for name in ("commit", "file", "symbol")} | {"repository": reference.repo}


GOLDENS: dict[str, Golden] = {
    "methods/dafl": lambda repos: [step_record(1320, 4, 6, repos), step_record(1330, 2, 3, repos)],
    "methods/image_generator": lambda repos: [
        generator_record(1340, 3, 2, 8, 5, repos),
        generator_record(1350, 4, 1, 4, 9, repos),
    ],
}

if __name__ == "__main__":
    command(globals())
