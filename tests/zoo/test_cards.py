"""Cards of published weights, and loading what they name."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest
import torch

import kd_zoo.models  # noqa: F401
from kd_core.errors import KDError
from kd_core.models.registry import MODELS, WeightCard, builder_of, find_card
from kd_core.models.weights import load_state, read_state, rename_modules
from kd_core.registry import Registry
from kd_zoo.cards import CARDS, card, download, weights_path

MAKE = runpy.run_path(str(Path(__file__).with_name("make_weights.py")))


def publisher(each: WeightCard) -> str:
    """Whose weights a card names."""
    return next((name for name in ("akamaster", "repdistiller") if each.name.startswith(name)), "torchdistill")


def files_of(name: str) -> list[str]:
    return [each.url.rpartition("/")[2] for each in CARDS if publisher(each) == name]


def test_every_published_file_has_a_card() -> None:
    files = files_of("torchdistill")
    assert sorted(files) == sorted(
        [
            *(f"cifar10-resnet{depth}.pt" for depth in (20, 32, 44, 56, 110)),
            *(f"cifar{n}-wide_resnet{name}.pt" for n in (10, 100) for name in ("40_4", "28_10", "16_8")),
            *(f"cifar{n}-densenet_bc_k12_depth100.pt" for n in (10, 100)),
            "ilsvrc2012-resnet18_from_resnet34.pt",
            "coco2017-lraspp_mobilenet_v3_large_from_deeplabv3_resnet50.pt",
            "pascal_voc2012-deeplabv3_resnet50.pt",
            "pascal_voc2012-deeplabv3_resnet101.pt",
        ]
    )


def test_the_files_of_others_have_cards() -> None:
    assert files_of("akamaster") == [
        f"resnet{depth}-{digest}.th"
        for depth, digest in ((20, "12fca82f"), (32, "d509ac18"), (44, "014dd654"), (56, "4bfd9763"))
    ]
    assert files_of("repdistiller") == ["ckpt_epoch_240.pth"] * 6


ORIGINS = {
    "torchdistill": (
        "https://github.com/yoshitomo-matsubara/torchdistill/releases/download/v0.",
        "MIT",
        "2310.17644",
    ),
    "akamaster": (
        "https://raw.githubusercontent.com/akamaster/pytorch_resnet_cifar10/d5489e89",
        "BSD-2-Clause",
        "1512.03385",
    ),
    "repdistiller": ("http://shape2prog.csail.mit.edu/repo/", "BSD-2-Clause", "1910.10699"),
}


@pytest.mark.parametrize("each", CARDS, ids=lambda each: f"{each.dataset}-{each.name}")
def test_a_card_says_where_from_and_under_which_terms(each: WeightCard) -> None:
    url, licence, source = ORIGINS[publisher(each)]
    assert each.url.startswith(url)
    assert (each.licence, len(each.mean), len(each.std)) == (licence, 3, 3)
    assert set(each.published) >= ({"top1"} if each.package != "kd-seg" else {"miou", "pixel_accuracy"})
    assert source in each.source
    assert ("original" in each.source) == any(key.endswith("_original") for key in each.published)


def test_cards_are_found_by_our_name_and_torchdistills() -> None:
    ours = card("wrn-28-10", "cifar100")
    assert ours is card("wide_resnet28_10", "cifar100")
    assert ours.parameters == {"num_classes": 100}
    assert ours.published == {"top1": 81.27, "top1_original": 80.75}
    assert find_card("resnet20", None)[1] is card("resnet20")
    assert find_card("resnet20", "cifar10")[1] is card("resnet20")
    assert card("densenet-bc-k12-d100") is card("densenet_bc_k12_depth100", "cifar10")


def test_no_two_files_lie_in_one_place() -> None:
    paths = [weights_path(each) for each in CARDS]
    assert len(set(paths)) == len(paths)
    assert weights_path(card("repdistiller-resnet50")).name == "repdistiller-ResNet50_vanilla-epoch_240.pth"


@pytest.mark.parametrize("name", ["ckpt_epoch_240", "epoch_240", "resnet20-12fca82f"])
def test_the_files_of_others_are_no_names(name: str) -> None:
    with pytest.raises(KDError, match="no weights"):
        card(name)


@pytest.mark.parametrize(
    ("name", "top1"),
    [("resnet56", 72.34), ("resnet110", 74.31), ("resnet32x4", 79.42), ("vgg13", 74.64), ("wrn-40-2", 75.61)],
)
def test_a_benchmark_teacher_in_its_checkpoint_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, top1: float
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = card(f"repdistiller-{name}", "cifar100")
    assert wanted.published == {"top1": top1}
    trained = MODELS.get(wanted.arch)(**wanted.parameters)
    path = weights_path(wanted)
    path.parent.mkdir(parents=True)
    content = {"epoch": 240, "model": trained.state_dict(), "accuracy": torch.tensor(top1), "optimizer": {"state": {}}}
    torch.save(content, path, _use_new_zipfile_serialization=False)  # as PyTorch 0.4 did
    fresh = MODELS.get(wanted.arch)(**wanted.parameters)
    load_state(fresh, rename_modules(read_state(download(wanted)), wanted.rename), wanted.url)
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in fresh.state_dict().items())


@pytest.mark.parametrize("dataset", [None, "cifar10", "digits"])
@pytest.mark.parametrize("name", ["cifar100-wrn-28-10", "cifar100-wide_resnet28_10"])
def test_a_name_may_say_its_data_set(name: str, dataset: str | None) -> None:
    assert card(name, dataset) is card("wrn-28-10", "cifar100")


def test_weights_published_for_one_data_set_begin_training_on_any() -> None:
    wanted = card("resnet18-kr", "image_folder")
    assert wanted is card("resnet18_from_resnet34") is card("ilsvrc2012-resnet18_from_resnet34", "cifar10")
    assert (wanted.arch, wanted.dataset, wanted.parameters) == (
        "torchvision.resnet18",
        "imagenet",
        {"num_classes": 1000},
    )


@pytest.mark.parametrize(
    ("name", "dataset", "says"),
    [
        ("resnet-20", "cifar10", "did you mean 'resnet20'"),
        ("resnet1202", None, "for any data set"),
        ("resnet20", "cifar100", "for cifar100, only for cifar10\n.*hint: `arch:` has .*cifar10-resnet20"),
        (
            "resnet56",
            "cifar100",
            "only for cifar10\n.*`zoo: repdistiller-resnet56` has weights of another",
        ),
        ("cifar100-resnet20", None, "only for cifar10\n"),
        ("wrn-28-10", "svhn", "for svhn, only for cifar10 and cifar100\n"),
    ],
)
def test_weights_that_do_not_exist_are_an_error(name: str, dataset: str | None, says: str) -> None:
    for find in (card, find_card):
        with pytest.raises(KDError, match=says):
            find(name, dataset)


@pytest.mark.parametrize("name", ["deeplabv3-resnet50", "lraspp-mobilenet-v3-large-ktaad"])
def test_an_architecture_of_another_package_is_named_with_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_core.models.registry.MODELS", Registry("model", "kd.none"))
    with pytest.raises(KDError, match="which the package kd-seg holds"):
        builder_of(card(name))


@pytest.mark.parametrize("layout", MAKE["LAYOUTS"])
def test_a_file_in_the_cache_loads_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = card("resnet20")
    trained = MODELS.get(wanted.arch)(**wanted.parameters)
    MAKE["put"]("resnet20", trained.state_dict(), layout)
    fresh = MODELS.get(wanted.arch)(**wanted.parameters)
    load_state(fresh, read_state(download(wanted)), wanted.url)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


def test_a_file_with_code_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": {"w": torch.zeros(1)}, "args": shutil.rmtree}, path)
    with pytest.raises(KDError, match=r"it holds shutil\.rmtree"):
        read_state(path)


def test_without_the_file_and_network_one_error_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(KDError) as caught:
        download(card("wrn-40-4"))
    assert card("wrn-40-4").url in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / "cifar10-wide_resnet40_4.pt") in str(caught.value)
