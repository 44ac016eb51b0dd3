"""Published weights, as cards: what they are, where they lie, what they score."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from kd_core.download import fetch, place
from kd_core.errors import KDError
from kd_core.models.registry import ZOOS, WeightCard, builder_of, card_among

TORCHDISTILL = "yoshitomo-matsubara/torchdistill"
RELEASES = f"https://github.com/{TORCHDISTILL}/releases/download"
SOURCE = "Matsubara, NLP-OSS 2023 (arXiv 2310.17644)"
RESNET = "He et al., CVPR 2016 (arXiv 1512.03385), table 6"
WRN = "Zagoruyko & Komodakis, BMVC 2016 (arXiv 1605.07146), table 5"
DENSENET = "Huang et al., CVPR 2017 (arXiv 1608.06993), table 2"
REVIEW = "Chen et al., CVPR 2021 (arXiv 2104.09044)"
DEEPLAB = "Chen et al. 2017 (arXiv 1706.05587)"
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}
MEAN = {"cifar10": (0.49139968, 0.48215841, 0.44653091), "cifar100": (0.5070754, 0.48655024, 0.44091907)}
STD = {"cifar10": (0.24703223, 0.24348513, 0.26158784), "cifar100": (0.26733398, 0.25643876, 0.2761503)}
AKAMASTER = (
    "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/d5489e8995e81e91ce6b1d69dcc98ad579b0b153"
)
AKAMASTER_SOURCE = "Idelbayev, README of github akamaster/pytorch_resnet_cifar10"
REPDISTILLER = "http://shape2prog.csail.mit.edu/repo"
REPDISTILLER_SOURCE = "Tian et al., ICLR 2020 (arXiv 1910.10699), and README of github HobbitLong/RepDistiller"
REPDISTILLER_MEAN, REPDISTILLER_STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (
    ("cifar10", "resnet20", 91.92, 91.25, RESNET),
    ("cifar10", "resnet32", 93.03, 92.49, RESNET),
    ("cifar10", "resnet44", 93.20, 92.83, RESNET),
    ("cifar10", "resnet56", 93.57, 93.03, RESNET),
    ("cifar10", "resnet110", 93.50, 93.57, RESNET),
    ("cifar10", "wrn-40-4", 95.24, 95.47, WRN),
    ("cifar10", "wrn-28-10", 95.53, 96.00, WRN),
    ("cifar10", "wrn-16-8", 94.76, 95.73, WRN),
    ("cifar10", "densenet-bc-k12-d100", 95.53, 95.49, DENSENET),
    ("cifar100", "wrn-40-4", 79.44, 78.82, WRN),  # Matsubara quotes 79.82; the table has an error of 21.18
    ("cifar100", "wrn-28-10", 81.27, 80.75, WRN),
    ("cifar100", "wrn-16-8", 79.26, 79.57, WRN),
    ("cifar100", "densenet-bc-k12-d100", 77.14, 77.73, DENSENET),
)
"""Data set, model, percent of test images these weights get right, the same by the model's authors, and where."""

PADDED = (
    (20, 91.73, 91.25, "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"),
    (32, 92.63, 92.49, "d509ac1820d7f25398913559d7e81a13229b1e7adc5648e3bfa5e22dc137f850"),
    (44, 93.10, 92.83, "014dd6541728a1c700b1642ab640e211dc6eb8ed507d70697458dc8f8a0ae2e4"),
    (56, 93.39, 93.03, "4bfd97631478d6b638d2764fd2baff3edb1d7d82252d54439343b6596b9b5367"),
)
"""Depth of akamaster's ResNets, percent of CIFAR-10's test images, the same by the model's authors, and SHA-256."""
BENCHMARK = (
    ("resnet56", "resnet56", "resnet56", 72.34),
    ("resnet110", "resnet110", "resnet110", 74.31),
    ("resnet32x4", "resnet32x4", "resnet32x4", 79.42),
    ("resnet50", "cifar-resnet50", "ResNet50", 79.34),
    ("wrn-40-2", "wrn-40-2-benchmark", "wrn_40_2", 75.61),
    ("vgg13", "vgg13", "vgg13", 74.64),
)
"""Teachers of RepDistiller's tables: our name, architecture, their name, and percent of CIFAR-100's test images."""


def _cifar(dataset: str, arch: str, top1: float, original: float, paper: str) -> WeightCard:
    file_stem = arch.replace("wrn-", "wide_resnet").replace("-d", "_depth").replace("-", "_")
    return WeightCard(
        name=arch,
        arch=arch,
        dataset=dataset,
        url=f"{RELEASES}/v0.1.1/{dataset}-{file_stem}.pt",
        sha256=None,
        licence="MIT",
        parameters={"num_classes": NUM_CLASSES[dataset]},
        input_size=(32, 32),
        mean=MEAN[dataset],
        std=STD[dataset],
        published={"top1": top1, "top1_original": original},
        source=f"{SOURCE}, section 4.2; original: {paper}",
        package="kd-zoo",
    )


def _akamaster(depth: int, top1: float, original: float, sha256: str) -> WeightCard:
    return WeightCard(
        name=f"akamaster-resnet{depth}",
        arch=f"resnet{depth}",
        dataset="cifar10",
        url=f"{AKAMASTER}/pretrained_models/resnet{depth}-{sha256[:8]}.th",
        sha256=sha256,
        licence="BSD-2-Clause",
        parameters={"num_classes": 10, "shortcut": "pad"},
        input_size=(32, 32),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published={"top1": top1, "top1_original": original},
        source=f"{AKAMASTER_SOURCE}; original: {RESNET}",
        package="kd-zoo",
        rename={"linear": "fc"},
    )


def _repdistiller(name: str, arch: str, theirs: str, top1: float) -> WeightCard:
    return WeightCard(
        name=f"repdistiller-{name}",
        arch=arch,
        dataset="cifar100",
        url=f"{REPDISTILLER}/{theirs}_vanilla/ckpt_epoch_240.pth",
        sha256=None,
        licence="BSD-2-Clause",
        parameters={"num_classes": 100},
        input_size=(32, 32),
        mean=REPDISTILLER_MEAN,
        std=REPDISTILLER_STD,
        published={"top1": top1},
        source=REPDISTILLER_SOURCE,
        package="kd-zoo",
        file=f"repdistiller-{theirs}_vanilla-epoch_240.pth",
    )


def _large(name: str, arch: str, dataset: str, file: str, published: dict[str, float], source: str) -> WeightCard:
    image_classifier = dataset == "imagenet"
    return WeightCard(
        name=name,
        arch=arch,
        dataset=dataset,
        url=f"{RELEASES}/{file}",
        sha256=None,
        licence="MIT",
        parameters={"num_classes": 1000 if image_classifier else 21},
        input_size=(224, 224) if image_classifier else (),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published=published,
        source=f"{SOURCE}, {source}",
        package="kd-vision" if image_classifier else "kd-seg",
    )


CARDS = (
    *(_cifar(*row) for row in CIFAR),
    *(_akamaster(*row) for row in PADDED),
    *(_repdistiller(*row) for row in BENCHMARK),
    _large(
        "resnet18-kr",
        "torchvision.resnet18",
        "imagenet",
        "v0.2.5/ilsvrc2012-resnet18_from_resnet34.pt",
        {"top1": 71.64, "top1_original": 71.61},
        f"table 4: distilled from ResNet-34 by knowledge review; original: {REVIEW}",
    ),
    _large(
        "lraspp-mobilenet-v3-large-ktaad",
        "torchvision.lraspp_mobilenet_v3_large",
        "coco2017",
        "v0.2.6/coco2017-lraspp_mobilenet_v3_large_from_deeplabv3_resnet50.pt",
        {"miou": 58.2, "pixel_accuracy": 92.1},
        "section 6: distilled from DeepLabv3 with ResNet-50 by KTAAD",
    ),
    _large(
        "deeplabv3-resnet50",
        "torchvision.deeplabv3_resnet50",
        "voc2012",
        "v0.2.8/pascal_voc2012-deeplabv3_resnet50.pt",
        {"miou": 80.6, "pixel_accuracy": 95.7},
        "section 6",
    ),
    _large(
        "deeplabv3-resnet101",
        "torchvision.deeplabv3_resnet101",
        "voc2012",
        "v0.2.8/pascal_voc2012-deeplabv3_resnet101.pt",
        {"miou": 82.4, "pixel_accuracy": 96.2, "miou_original": 82.70},
        f"section 6; original, the best of the authors' ResNet-101: {DEEPLAB}",
    ),
)
"""Every card, torchdistill's models for 32x32 images first."""


def names_of(card: WeightCard) -> tuple[str, ...]:
    """Our name and torchdistill's, where the weights are theirs: wrn-28-10 and wide_resnet28_10."""
    stem = _torchdistills(card)
    return (card.name, stem.partition("-")[2]) if stem else (card.name,)


def _torchdistills(card: WeightCard) -> str | None:
    """The name of torchdistill's file without its suffix, None where the weights are another's."""
    return PurePosixPath(card.url).stem if TORCHDISTILL in card.url else None


class KDZoo:
    """The cards of this module, for configs and commands."""

    def card(self, name: str, dataset: str | None) -> WeightCard | None:
        """The card of that name, by our name or torchdistill's, CIFAR-10's where no data set is given.

        A name that begins with a data set (``cifar100-wrn-28-10``) has that one's weights on any data, and so have
        models that were published for one data set other than CIFAR: such weights often begin a training on other data.
        """
        for card in CARDS:
            for alias in names_of(card):
                if name == f"{card.dataset}-{alias}" or name == _torchdistills(card):
                    return card
                if name == alias and (dataset in (None, card.dataset) or card.dataset not in NUM_CLASSES):
                    return card
        return None

    def datasets(self, name: str) -> list[str]:
        """The data sets that a model has weights for; ``name`` may begin with one that it has none for."""
        for dataset in NUM_CLASSES:
            name = name.removeprefix(f"{dataset}-")
        return [card.dataset for card in CARDS if name in names_of(card)]

    def names(self) -> list[str]:
        """The models that have weights."""
        return list(dict.fromkeys(card.name for card in CARDS))

    def path(self, card: WeightCard) -> Path:
        """The weights as a local file, downloaded where missing."""
        return download(card)


ZOO = KDZoo()
ZOOS("kd-zoo")(ZOO)


def card(name: str, dataset: str | None = None) -> WeightCard:
    """The card of a model, by our name or torchdistill's; KDError where no weights were published."""
    return card_among([ZOO], name, dataset)[1]


def all_named(name: str, dataset: str | None = None) -> list[WeightCard]:
    """Every card of a model, or the one for a data set; KDError where there is none."""
    cards = [candidate for candidate in CARDS if name in names_of(candidate)]
    return cards if cards and dataset is None else [card(name, dataset)]


def parameters(card: WeightCard) -> int | None:
    """How many parameters the model has, None where the package that holds it is not installed."""
    import torch

    try:
        build = builder_of(card)
    except KDError:
        return None
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(**card.parameters).parameters())


def weights_path(card: WeightCard) -> Path:
    """The path of a card's weights in PyTorch's hub cache, downloaded or not."""
    return place(card.url, name=card.file)


def download(card: WeightCard) -> Path:
    """The weights of a card as a verified local file; KDError without network, saying where to put it by hand."""
    return fetch(card.url, sha256=card.sha256, name=card.file)
