"""Models for configs, and torchvision's weights for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models as torchvision_models

from kd_core.errors import KDError
from kd_core.models.registry import MODELS, find_card
from kd_core.models.weights import load_state, read_state
from kd_core.taps.landmarks import declared
from kd_vision.models import ZOOS, Cnn, card_of


def test_a_cnn_has_the_width_and_depth_asked_for() -> None:
    model = MODELS.get("cnn")(width=4, depth=3, num_classes=5, in_channels=3)
    assert [layer[0].out_channels for layer in model.layers] == [4, 8, 16]
    assert model.layers(torch.rand(2, 3, 8, 8)).shape == (2, 16, 2, 2)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(KDError, match="at least 1"):
        MODELS.get("cnn")(depth=0)


def test_torchvision_builds_what_it_is_asked_for() -> None:
    model = MODELS.get("torchvision.resnet18")(num_classes=3, zero_init_residual=True)
    assert model.fc.out_features == 3
    assert model.layer1[0].bn2.weight.eq(0).all()
    with pytest.raises(KDError, match=r"torchvision\.resnet18: .*'depth'"):
        MODELS.get("torchvision.resnet18")(depth=3)


def test_cards_tell_what_torchvision_publishes() -> None:
    zoo, card = find_card("torchvision.resnet34", "image_folder")
    assert zoo is ZOOS.get("torchvision")
    assert card.url == "https://download.pytorch.org/models/resnet34-b627a593.pth"
    assert (card.sha256, card.arch, card.parameters) == ("b627a593", "torchvision.resnet34", {"num_classes": 1000})
    assert (card.input_size, card.mean, card.std) == ((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert card.published == {"top1": 73.314, "top5": 91.42}
    assert find_card("torchvision.resnet50.IMAGENET1K_V1", None)[1].published["top1"] == 76.13
    assert find_card("torchvision.resnet50", None)[1].name == "torchvision.resnet50.IMAGENET1K_V2"
    with pytest.raises(KDError, match="did you mean 'IMAGENET1K_V1'"):
        find_card("torchvision.resnet34.IMAGENET1K", None)
    with pytest.raises(KDError, match=r"did you mean 'torchvision\.resnet34'"):
        find_card("torchvision.resnet43", None)


def test_every_published_file_has_a_checksum_in_its_name() -> None:
    for name in torchvision_models.list_models(module=torchvision_models):
        for version in torchvision_models.get_model_weights(name).__members__:
            card = card_of(name, version)
            assert len(card.sha256 or "") >= 8
            assert int(card.sha256 or "", 16) >= 0


def test_weights_in_the_cache_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    zoo, card = find_card("torchvision.squeezenet1_1", None)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    trained = torchvision_models.squeezenet1_1(weights=None)
    path = tmp_path / "hub" / "checkpoints" / card.url.rpartition("/")[2]
    torch.save(trained.state_dict(), path)
    with pytest.raises(KDError, match="damaged"):
        zoo.path(card)
    model = MODELS.get(card.arch)(**card.parameters)
    load_state(model, read_state(path), card.url)
    assert torch.equal(model.classifier[1].weight, trained.classifier[1].weight)


def test_a_cnn_tells_its_landmarks() -> None:
    told = declared(Cnn(width=2, depth=2))
    assert told is not None
    assert list(map(str, told.features)) == ["layers.0", "layers.1"]
    assert list(map(str, told.preactivations)) == ["layers.0.2:in", "layers.1.2:in"]
    assert (told.norms, told.classifier, str(told.last_map)) == (("layers.0.1", "layers.1.1"), "fc", "avgpool:in")
