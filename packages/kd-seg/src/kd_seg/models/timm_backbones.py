"""Convolutional networks of timm as backbones of segmentation: ``backbone: timm.resnet18``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.models.weights import read_state
from kd_zoo.timm_hub import TimmHub, readable, weights_of

PREFIX = "timm."
LOW = 8
"""How much smaller than the image the maps are that LRASPP reads beside the last ones."""


class TimmMaps(nn.Module):
    """A network that gives a list of maps, as one that gives some of them by name."""

    def __init__(self, net: nn.Module, names: Mapping[int, str]) -> None:
        super().__init__()
        self.net, self.names = net, dict(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.net(images)
        return {name: maps[index] for index, name in self.names.items()}


def timm_maps(backbone: str, weights: str | None, output_stride: int) -> tuple[nn.Module, list[tuple[str, int]], int]:
    """timm's network without its head, its maps as (number, channels), and the number of the map at 1/8.

    ``weights`` is the tag of some of timm's, such as ``a1_in1k``. KDError where timm has no such model or weights, or
    the model has no maps of that stride.
    """
    from timm import create_model

    name = backbone.removeprefix(PREFIX) + (f".{weights}" if weights else "")
    model = TimmHub("kd-seg").resolved(name)
    values: dict[str, Any] = {"features_only": True, "output_stride": output_stride}
    with readable(backbone):
        net: Any = create_model(model.arch, pretrained=False, **values)
        if weights is not None:
            told = {**model.told, "file": None, "source": "", "url": None, "hf_hub_id": None}
            overlay = {**told, "state_dict": read_state(weights_of(model, name, None))}
            net = create_model(model.arch, pretrained=True, pretrained_cfg=overlay, **values)
    widths, strides = net.feature_info.channels(), net.feature_info.reduction()
    if len(widths) < 2 or LOW not in strides:
        message = f"{backbone} has no maps at an eighth of the image to segment by"
        raise KDError(message, hint="take a convolutional network")
    return net, [(str(number), width) for number, width in enumerate(widths)], strides.index(LOW)
