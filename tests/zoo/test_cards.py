"""Cards of published weights, and loading what they name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kd_zoo.models  # noqa: F401
from kd_core.errors import KDError
from kd_core.models import MODELS, find_card
from kd_core.weights import load_state, read_state
from kd_zoo.cards import CARDS, card, download, weights_path


def test_every_published_file_has_a_card() -> None:
    files = {each.url.rpartition("/")[2] for each in CARDS}
    assert files == {
        *(f"cifar10-resnet{depth}.pt" for depth in (20, 32, 44, 56, 110)),
        *(f"cifar{n}-wide_resnet{name}.pt" for n in (10, 100) for name in ("40_4", "28_10", "16_8")),
    }
    assert len(CARDS) == len(files)


def test_cards_are_found_by_our_name_and_the_ancestors() -> None:
    ours = card("wrn-28-10", "cifar100")
    assert ours is card("wide_resnet28_10", "cifar100")
    assert ours.num_classes == 100
    assert ours.published == {"top1": 81.27, "top1_original": 80.75}
    assert find_card("resnet20", None)[1] is card("resnet20")
    assert find_card("resnet20", "cifar10")[1] is card("resnet20")


@pytest.mark.parametrize(
    ("name", "dataset", "says"),
    [
        ("resnet-20", "cifar10", "did you mean 'resnet20'"),
        ("resnet20", "cifar100", "on 'cifar100'"),
        ("resnet20", "svhn", "cifar10 and cifar100"),
    ],
)
def test_weights_that_do_not_exist_are_an_error(name: str, dataset: str, says: str) -> None:
    with pytest.raises(KDError, match=says):
        card(name, dataset)


@pytest.mark.parametrize("layout", ["plain", "model", "data parallel"])
def test_a_file_in_the_cache_loads_in_every_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    wanted = card("resnet20")
    trained = MODELS.get(wanted.arch)(num_classes=wanted.num_classes)
    state = trained.state_dict()
    if layout == "data parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    weights_path(wanted).parent.mkdir(parents=True)
    torch.save({"model": state, "best_value": 1.0} if layout == "model" else state, weights_path(wanted))
    fresh = MODELS.get(wanted.arch)(num_classes=wanted.num_classes)
    load_state(fresh, read_state(download(wanted)), wanted.url)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key


def test_without_the_file_and_network_one_error_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    with pytest.raises(KDError) as caught:
        download(card("wrn-40-4"))
    assert card("wrn-40-4").url in str(caught.value)
    assert str(tmp_path / "hub" / "checkpoints" / "cifar10-wide_resnet40_4.pt") in str(caught.value)
