"""Image classifiers for configs: a small convolutional network, and all of torchvision's with their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models as torchvision_models

from kd_core.errors import KDError
from kd_core.models.registry import MODELS, ZOOS, WeightCard
from kd_core.models.versions import VersionedZoo, version_of
from kd_core.ranges import PositiveInt, checked

PREFIX = "torchvision."
SPECIAL: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": True, "transform_input": True},
    "inception_v3": {"init_weights": True, "transform_input": True},
    "vit_h_14": {"image_size": 518},
}
"""Arguments that torchvision's builders set only when they load weights themselves: rescaled inputs, a larger image."""


@checked
class Cnn(nn.Module):
    """``depth`` layers of 3x3 convolution, normalisation and ReLU: images (B, in_channels, H, W) -> logits (B, C).

    The first layer has ``width`` channels; each further one has twice those before it and halves the resolution.
    Outputs of the layers are ``layers.0``, ``layers.1``, ... Any H and W work.
    """

    def __init__(
        self,
        *,
        width: PositiveInt = 16,
        depth: PositiveInt = 3,
        num_classes: PositiveInt = 10,
        in_channels: PositiveInt = 1,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for number in range(depth):
            self.layers.append(convolution(in_channels, width << number, stride=2 if number else 1))
            in_channels = width << number
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.layers(x)).flatten(1))

    def landmarks(self) -> dict[str, Any]:
        """Its layers, and its classifier."""
        layers = [f"layers.{number}" for number in range(len(self.layers))]
        return {
            "features": layers,
            "preactivations": [f"{layer}.2:in" for layer in layers],
            "norms": [f"{layer}.1" for layer in layers],
            "classifier": "fc",
            "last_map": "avgpool:in",
        }


def convolution(in_width: int, width: int, stride: int) -> nn.Sequential:
    """3x3 convolution, normalisation, ReLU: (B, in_width, H, W) -> (B, width, H / stride, W / stride), rounded up."""
    return nn.Sequential(
        nn.Conv2d(in_width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )


@MODELS("cnn")
def cnn(
    *, width: PositiveInt = 16, depth: PositiveInt = 3, num_classes: PositiveInt = 10, in_channels: PositiveInt = 1
) -> Cnn:
    """A small convolutional network; a wider and deeper one makes a teacher for it."""
    return Cnn(width=width, depth=depth, num_classes=num_classes, in_channels=in_channels)


def _register(name: str) -> None:
    make: Callable[..., nn.Module] = torchvision_models.get_model_builder(name)

    @MODELS(PREFIX + name)
    def build(*, num_classes: PositiveInt = 1000, **values: Any) -> nn.Module:
        try:
            return make(**{"num_classes": num_classes, **SPECIAL.get(name, {}), **values})
        except (TypeError, ValueError) as error:
            raise KDError(f"{PREFIX}{name}: {error}") from error

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"torchvision's {name}, without weights."


NAMES = torchvision_models.list_models(module=torchvision_models)
for _name in NAMES:
    _register(_name)


def card_of(arch: str, version: str = "") -> WeightCard:
    """The card of torchvision weights, the best where no version is named; KDError with the versions there are."""
    weights = version_of(torchvision_models.get_model_weights(arch), PREFIX + arch, version)
    transform = weights.transforms()
    scores = weights.meta["_metrics"]["ImageNet-1K"]
    return WeightCard(
        name=f"{PREFIX}{arch}.{weights.name}",
        arch=PREFIX + arch,
        dataset="imagenet",
        url=weights.url,
        sha256=Path(weights.url).stem.rpartition("-")[2],  # how PyTorch names its files
        licence=weights.meta.get("license", "BSD-3-Clause"),
        parameters={"num_classes": 1000},
        input_size=(*transform.crop_size, *transform.crop_size)[:2],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        published={"top1": scores["acc@1"], "top5": scores["acc@5"]},
        source=weights.meta.get("recipe", ""),
        package="kd-vision",
    )


ZOOS("torchvision")(VersionedZoo(PREFIX, NAMES, card_of))
