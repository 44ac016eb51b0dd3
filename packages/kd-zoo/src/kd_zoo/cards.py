"""Weights published for the zoo's models, as cards: what they are, where they lie, what they score."""

from __future__ import annotations

from pathlib import Path

from kd_core.download import fetch, place
from kd_core.errors import KDError, did_you_mean
from kd_core.models import ZOOS, WeightCard

RELEASE = "https://github.com/yoshitomo-matsubara/torchdistill/releases/download/v0.1.1"
SOURCE = "top1: Matsubara, NLP-OSS 2023 (arXiv 2310.17644), section 4.2; top1_original: the authors of the model"
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
MEAN = {"cifar10": (0.49139968, 0.48215841, 0.44653091), "cifar100": (0.5070754, 0.48655024, 0.44091907)}
STD = {"cifar10": (0.24703223, 0.24348513, 0.26158784), "cifar100": (0.26733398, 0.25643876, 0.2761503)}
TOP1 = (
    ("cifar10", "resnet20", 91.92, 91.25),
    ("cifar10", "resnet32", 93.03, 92.49),
    ("cifar10", "resnet44", 93.20, 92.83),
    ("cifar10", "resnet56", 93.57, 93.03),
    ("cifar10", "resnet110", 93.50, 93.57),
    ("cifar10", "wrn-40-4", 95.24, 95.47),
    ("cifar10", "wrn-28-10", 95.53, 96.00),
    ("cifar10", "wrn-16-8", 94.76, 95.73),
    ("cifar100", "wrn-40-4", 79.44, 79.82),
    ("cifar100", "wrn-28-10", 81.27, 80.75),
    ("cifar100", "wrn-16-8", 79.26, 79.57),
)
"""Data set, model, percent of the test images these weights get right, and the percentage its authors report."""


def their_name(arch: str) -> str:
    """torchdistill's name of a model: wrn-28-10 is wide_resnet28_10."""
    return arch.replace("wrn-", "wide_resnet").replace("-", "_")


def _card(dataset: str, arch: str, top1: float, original: float) -> WeightCard:
    return WeightCard(
        name=arch,
        arch=arch,
        dataset=dataset,
        url=f"{RELEASE}/{dataset}-{their_name(arch)}.pt",
        sha256=None,
        licence="MIT",
        num_classes=NUM_CLASSES[dataset],
        input_size=(32, 32),
        mean=MEAN[dataset],
        std=STD[dataset],
        published={"top1": top1, "top1_original": original},
        source=SOURCE,
    )


CARDS = tuple(_card(*row) for row in TOP1)
"""Every card, CIFAR-10's first."""


def card(name: str, dataset: str = "cifar10") -> WeightCard:
    """The card of a model, by our name or torchdistill's; KDError where no weights were published."""
    found = CifarZoo().card(name, dataset)
    if found is None:
        known = [each.name for each in CARDS if each.dataset == dataset]
        hint = did_you_mean(name, known) if known else f"there are some for {' and '.join(NUM_CLASSES)}"
        raise KDError(f"no weights were published for {name!r} on {dataset!r}\n    hint: {hint}")
    return found


def weights_path(card: WeightCard) -> Path:
    """Where the weights of a card lie, or would: PyTorch's hub cache."""
    return place(card.url)


def download(card: WeightCard) -> Path:
    """The weights of a card as a verified local file; KDError without network, saying where to put it by hand."""
    return fetch(card.url, sha256=card.sha256)


class CifarZoo:
    """The cards of this module, for configs and commands."""

    def card(self, name: str, dataset: str | None) -> WeightCard | None:
        """The card of that name; CIFAR-10's where no data set is given."""
        wanted = dataset or "cifar10"
        found = (each for each in CARDS if each.dataset == wanted and name in (each.name, their_name(each.name)))
        return next(found, None)

    def names(self) -> list[str]:
        """The models that have weights."""
        return list(dict.fromkeys(each.name for each in CARDS))

    def path(self, card: WeightCard) -> Path:
        """The weights as a local file, downloaded where missing."""
        return download(card)


ZOOS("cifar")(CifarZoo())
