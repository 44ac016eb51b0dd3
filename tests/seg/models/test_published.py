"""Segmentation models: torchvision's, key for key and value for value, on any of its backbones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from kd_core.errors import KDError
from kd_core.models.registry import MODELS, find_card
from kd_core.models.weights import load_state, read_state
from kd_seg.models.published import NAMES, card_of

WHOLE = [("fcn_resnet50", True), ("deeplabv3_mobilenet_v3_large", False), ("lraspp_mobilenet_v3_large", None)]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def values(aux: bool | None) -> dict[str, Any]:
    return {} if aux is None else {"aux_loss": aux}


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_are_torchvisions(name: str) -> None:
    for aux in (None,) if name.startswith("lraspp") else (True, False):
        with torch.device("meta"):
            theirs = torchvision_models.get_model(
                name, weights=None, weights_backbone=None, num_classes=5, **values(aux)
            )
            own = MODELS.get(f"torchvision.{name}")(num_classes=5, **values(aux))
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (own, theirs)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "aux"), WHOLE)
def test_outputs_are_torchvisions(name: str, aux: bool | None) -> None:
    theirs = torchvision_models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **values(aux))
    own = MODELS.get(f"torchvision.{name}")(num_classes=4, **values(aux))
    own.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 33, 47)
    with torch.no_grad():
        expected, found = theirs.eval()(images), own.eval()(images)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value)


@pytest.mark.parametrize(
    ("arch", "backbone", "stride", "out"),
    [
        ("deeplabv3", "resnet18", None, (512, 8)),
        ("deeplabv3", "resnet18", 32, (512, 2)),
        ("fcn", "resnext50_32x4d", 16, (2048, 4)),
        ("deeplabv3", "mobilenet_v3_small", None, (576, 4)),
        ("fcn", "mobilenet_v3_small", 32, (576, 2)),
    ],
)
def test_a_backbone_is_cut_at_its_stages(arch: str, backbone: str, stride: int | None, out: tuple[int, int]) -> None:
    model = MODELS.get(arch)(backbone=backbone, output_stride=stride, num_classes=3, aux_loss=True).eval()
    with torch.no_grad():
        maps = model.backbone(torch.randn(1, 3, 64, 64))
        whole = model(torch.randn(1, 3, 40, 56))
    assert maps["out"].shape == (1, out[0], out[1], out[1])
    assert {key: value.shape for key, value in whole.items()} == dict.fromkeys(("out", "aux"), (1, 3, 40, 56))


def test_lraspp_reads_two_resolutions() -> None:
    model = MODELS.get("lraspp")(backbone="resnet18", output_stride=16, num_classes=3).eval()
    maps = model.backbone(torch.randn(1, 3, 64, 64))
    assert {key: tuple(value.shape[1:]) for key, value in maps.items()} == {"low": (128, 8, 8), "high": (512, 4, 4)}
    assert model(torch.randn(2, 3, 64, 48))["out"].shape == (2, 3, 64, 48)


def test_a_dilated_resnet18_sees_what_it_saw() -> None:
    """At the places that both compute, dilation in place of a stride changes nothing."""
    strided, dilated = (
        MODELS.get("fcn")(backbone="resnet18", output_stride=stride).backbone.eval() for stride in (32, 8)
    )
    dilated.load_state_dict(strided.state_dict())
    images = torch.randn(1, 3, 256, 256)
    with torch.no_grad():
        coarse, fine = strided(images)["out"], dilated(images)["out"]
    assert fine.shape[-1] == 4 * coarse.shape[-1]
    torch.testing.assert_close(fine[..., ::4, ::4], coarse, rtol=1e-4, atol=1e-5)


def put(url: str, state: dict[str, Any], home: Path) -> Path:
    """Weights where the download would put them, recorded as what was downloaded."""
    path = home / "hub" / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def test_weights_of_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    trained = torchvision_models.resnet18(weights=None)
    url = torchvision_models.ResNet18_Weights.IMAGENET1K_V1.url
    put(url, trained.state_dict(), tmp_path)
    with pytest.raises(KDError, match="damaged"):  # the file is none of torchvision's
        MODELS.get("fcn")(backbone="resnet18", weights_backbone="IMAGENET1K_V1")
    monkeypatch.setattr(
        "kd_seg.models.published.fetch", lambda url, sha256: tmp_path / "hub" / "checkpoints" / Path(url).name
    )
    model = MODELS.get("fcn")(backbone="resnet18", weights_backbone="IMAGENET1K_V1")
    assert torch.equal(model.backbone.layer4[1].conv2.weight, trained.layer4[1].conv2.weight)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"backbone": "resnet81"}, "did you mean 'resnet18'"),
        ({"backbone": "vgg16"}, "vgg16 has no stages to cut out"),
        ({"backbone": "mobilenet_v3_large", "output_stride": 8}, "has 16 or 32"),
        ({"backbone": "resnet18", "weights_backbone": "IMAGENET"}, "did you mean 'IMAGENET1K_V1'"),
    ],
)
def test_what_cannot_be_built_is_an_error(given: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError, match=says):
        MODELS.get("fcn")(**given)


def test_weights_with_an_auxiliary_head_fit_a_model_without_one() -> None:
    make = MODELS.get("torchvision.deeplabv3_mobilenet_v3_large")
    state = make(num_classes=3, aux_loss=True).state_dict()
    model = make(num_classes=3)
    load_state(model, state, "weights")
    assert torch.equal(model.classifier[4].weight, state["classifier.4.weight"])
    with pytest.raises(KDError, match=r"classifier\.5\.weight is not in the model"):
        load_state(model, {**state, "classifier.5.weight": torch.zeros(1)}, "weights")


def test_all_heads_may_go_to_other_classes() -> None:
    make = MODELS.get("torchvision.fcn_resnet50")
    state = make(num_classes=21, aux_loss=True).state_dict()
    model = make(num_classes=4, aux_loss=True)
    with pytest.raises(KDError, match="new_head: true"):
        load_state(model, state, "weights")
    load_state(model, state, "weights", new_head=True)
    assert torch.equal(model.backbone.conv1.weight, state["backbone.conv1.weight"])
    missing = {key: value for key, value in state.items() if not key.startswith("classifier.0")}
    with pytest.raises(KDError, match="and 1 more"):
        load_state(model, missing, "weights", new_head=True)


def test_cards_of_torchvisions_weights() -> None:
    for name in NAMES:
        _, card = find_card(f"torchvision.{name}", None)
        assert (card.dataset, card.parameters, card.package) == ("coco2017", {"num_classes": 21}, "kd-seg")
        assert card.sha256 is not None
        assert len(card.sha256) == 8
        assert card.published["miou"] > 57
    assert card_of("lraspp_mobilenet_v3_large").published == {"miou": 57.9, "pixel_accuracy": 91.2}
    with pytest.raises(KDError, match="COCO_WITH_VOC_LABELS_V1"):
        find_card("torchvision.fcn_resnet50.COCO", None)


def test_published_weights_of_torchdistill_have_a_model() -> None:
    for name in ("deeplabv3-resnet50", "deeplabv3-resnet101", "lraspp-mobilenet-v3-large-ktaad"):
        _, card = find_card(name, None)
        with torch.device("meta"):
            model = MODELS.get(card.arch)(**card.parameters)
        assert isinstance(model, nn.Module)


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    path = put("http://x/w.pt", MODELS.get("torchvision.fcn_resnet50")().state_dict(), tmp_path)
    with pytest.raises(KDError, match="does not fit"):
        load_state(MODELS.get("torchvision.lraspp_mobilenet_v3_large")(), read_state(path), "weights")
