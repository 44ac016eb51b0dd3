"""Makes methods/*.json of SimKD as a whole, of CS-KD and of DiffKD.

    python tests/golden/make_later.py REPOS [NAME...]

As make_losses.py, whose words these are.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
from make_methods import SIMKD, load, uncalled
from make_newer import where
from recipes import Golden, Input, Reference, command, digits, load_part, weigh
from torch import Tensor, nn
from torch.nn import functional as F

DIFFKD = ("hunto/image_classification_sota", "6f7a70a1dd57fd88413d83909d3d53243068f701")
CSKD = ("alinlab/cs-kd", "b447f250405932501cb28db0dc09eadeab526b80")


def simkd_record(seed: int, student: tuple[int, ...], teacher: tuple[int, ...], factor: int, repos: Path) -> Any:
    """SimKD's module on maps of two models, the loss of the student's, and what the teacher's classifier says."""
    reference = Reference(*SIMKD, "models/util.py", "SimKD", uncalled)
    module = load(reference, repos)(s_n=student[1], t_n=teacher[1], factor=factor).train()
    classifier = nn.Linear(teacher[1], 3)
    weigh(module, 400)
    weigh(classifier, 500)
    inputs = {"student": Input(student, seed), "teacher": Input(teacher, seed + 1)}
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    projected, target, logits = module(given["student"], given["teacher"], classifier)
    loss = F.mse_loss(projected, target)
    loss.backward()
    return {
        **where(reference),
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "factor": factor,
        "value": loss.item(),
        "logits": digits(logits),
        "gradients": {name: digits(each.grad) for name, each in given.items()},
        "of_weights": [digits(each.grad) for each in module.parameters()],
    }


def cs_kd_record(seed: int, samples: int, classes: int, temperature: float, weight: float, repos: Path) -> Any:
    """A step of CS-KD on a small network with batch norm: the loss, gradients, and the statistics that it leaves."""
    reference = Reference(*CSKD, "train.py", "for batch_idx, (inputs, targets) in enumerate(trainloader)", uncalled)
    distance = load_part(Reference(*CSKD, "train.py", "KDLoss", uncalled), repos)
    network = small_network(classes)
    inputs = {"student": Input((samples, 3), seed), "partner": Input((samples, 3), seed + 1)}
    target = torch.tensor([(2 * row + 1) % classes for row in range(samples)])
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    names = {
        "args": SimpleNamespace(cls=True, lamda=weight), "use_cuda": False, "net": network, "batch_idx": 0,
        "criterion": nn.CrossEntropyLoss(), "kdloss": distance(temperature), "trainloader": [None],
        "inputs": torch.cat([given["student"], given["partner"]]), "targets": torch.cat([target, target]),
        **dict.fromkeys(("train_loss", "train_cls_loss", "correct", "total"), 0),
        "optimizer": MagicMock(),
    }  # fmt: skip
    loss: Tensor = load(reference, repos)(names)["loss"]
    loss.backward()
    return {
        **where(reference),
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "target": target.tolist(),
        "classes": classes,
        "temperature": temperature,
        "weight": weight,
        "value": loss.item(),
        "gradients": {"student": digits(given["student"].grad)},
        "of_weights": [digits(each.grad) for each in network.parameters()],
        "buffers": [digits(each) for each in network.buffers()],
    }


def diffkd_record(seed: int, student: tuple[int, ...], teacher: tuple[int, ...], options: Any, repos: Path) -> Any:
    """DiffKD's module with noise and steps by formula: the terms of its loss, and their gradients."""
    folder = "lib/models/losses/diffkd"
    reference = Reference(
        *DIFFKD, f"{folder}/diffkd.py", "DiffKD", uncalled,
        needs=(
            ("reference.diffkd_modules", f"{folder}/diffkd_modules.py"),
            ("reference.scheduling_ddim", f"{folder}/scheduling_ddim.py"),
        ),
    )  # fmt: skip
    options = {"kernel": 3, "latent": None, "inference_steps": 5, **options}
    latent = options["latent"]
    module = load(reference, repos)(
        student[1], teacher[1], kernel_size=options["kernel"], inference_steps=options["inference_steps"],
        use_ae=latent is not None, ae_channels=latent,
    ).train()  # fmt: skip
    module.scheduler.alphas_cumprod = module.scheduler.alphas_cumprod.double()  # as from the second step on
    weigh(module, 700)
    inputs = {"student": Input(student, seed), "teacher": Input(teacher, seed + 1)}
    given = {name: each.tensor().requires_grad_() for name, each in inputs.items()}
    width = (len(given["student"]), latent or teacher[1], *teacher[2:])
    noises = [Input(width, seed + 2), Input(width, seed + 3)]
    steps = Input((len(given["student"]),), seed + 4, 0.0, 1000.0, whole=True)
    kept, drawn = (torch.randn, torch.randint), iter(noises)
    torch.randn = lambda *_, **__: next(drawn).tensor()  # type: ignore[assignment]
    torch.randint = lambda *_, **__: steps.tensor().long()  # type: ignore[assignment]
    try:
        refined, target, noise, reconstruction = module(given["student"], given["teacher"])
    finally:
        torch.randn, torch.randint = kept
    losses = {"refined": F.mse_loss(refined, target), "noise": noise}
    losses |= {} if reconstruction is None else {"reconstruction": reconstruction}
    sum(losses.values()).backward()  # type: ignore[union-attr]
    return {
        **where(reference),
        "inputs": {name: asdict(each) for name, each in inputs.items()},
        "options": options,
        "noises": [asdict(each) for each in noises],
        "steps": asdict(steps),
        "values": {name: value.item() for name, value in losses.items()},
        "gradients": {name: digits(each.grad) for name, each in given.items() if each.grad is not None},
        "of_weights": {name: digits(each.grad) for name, each in module.named_parameters() if "embedding" not in name},
    }


def small_network(classes: int) -> nn.Sequential:
    """Two linear layers with batch norm between, by formula."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, classes)).train()
    weigh(network, 600)
    return network


GOLDENS: dict[str, Golden] = {
    "methods/simkd": lambda repos: [
        simkd_record(1000, (2, 3, 4, 4), (2, 6, 2, 2), 2, repos),
        simkd_record(1010, (2, 3, 2, 2), (2, 4, 4, 4), 4, repos),
        simkd_record(1020, (3, 2, 3, 3), (3, 4, 3, 3), 1, repos),
    ],
    "methods/diffkd": lambda repos: [
        diffkd_record(1060, (2, 3, 2, 3), (2, 8, 2, 3), {}, repos),
        diffkd_record(1070, (3, 4, 2, 2), (3, 5, 2, 2), {"latent": 8, "inference_steps": 3}, repos),
        diffkd_record(1080, (4, 3, 1, 1), (4, 3, 1, 1), {"kernel": 1, "inference_steps": 2}, repos),
    ],
    "methods/cs_kd": lambda repos: [
        cs_kd_record(1030, 4, 3, 4.0, 1.0, repos),
        cs_kd_record(1040, 6, 2, 2.0, 3.0, repos),
        cs_kd_record(1050, 2, 5, 1.5, 0.5, repos),
    ],
}

if __name__ == "__main__":
    command(globals())
