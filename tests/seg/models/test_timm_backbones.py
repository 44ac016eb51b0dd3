"""Networks of timm as backbones."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kd_core.errors import KDError
from kd_core.models.registry import MODELS

timm = pytest.importorskip("timm")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("arch", ["fcn", "deeplabv3", "lraspp"])
def test_maps_are_those_of_a_segmentation_model(arch: str) -> None:
    model = MODELS.get(arch)(backbone="timm.test_resnet", num_classes=4).eval()
    assert model(torch.rand(1, 3, 32, 48))["out"].shape == (1, 4, 32, 48)


def test_strides_give_way_to_dilation() -> None:
    for stride in (8, 16, 32):
        model = MODELS.get("fcn")(backbone="timm.resnet18", num_classes=4, aux_loss=True, output_stride=stride)
        with torch.no_grad():
            maps = model.backbone(torch.rand(1, 3, 64, 64))
        assert {name: value.shape[1:] for name, value in maps.items()} == {
            "out": (512, 64 // stride, 64 // stride),
            "aux": (256, 64 // min(stride, 16), 64 // min(stride, 16)),
        }


def test_weights_are_found_by_their_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    make = MODELS.get("fcn")
    with pytest.raises(KDError, match=r"timm/test_resnet\.r160_in1k is not on this machine"):
        make(backbone="timm.test_resnet", weights_backbone="r160_in1k")
    folder = tmp_path / "models--timm--test_resnet.r160_in1k" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(COMMIT)
    (folder / "config.json").write_text("{}")
    theirs = timm.create_model("test_resnet")
    save_file(theirs.state_dict(), folder / "model.safetensors")
    ours = make(backbone="timm.test_resnet", weights_backbone="r160_in1k")
    assert torch.equal(ours.backbone.net.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_what_is_no_backbone() -> None:
    with pytest.raises(KDError, match=r"timm has no model 'resnet81'\n.*did you mean 'resnet18'"):
        MODELS.get("fcn")(backbone="timm.resnet81")
    with pytest.raises(KDError, match="timm"):
        MODELS.get("fcn")(backbone="timm.test_vit")
