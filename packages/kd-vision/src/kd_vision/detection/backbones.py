"""Backbones of detectors: classifiers cut at their stages, and a small network that trains on two cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchvision import models as torchvision_models

from kd_core.errors import KDError, did_you_mean
from kd_vision.detection.parts import convert_norms, state_of
from kd_vision.models import convolution

SMALL = "cnn"
CUT = ("*resne*", "mobilenet_*")


@dataclass(frozen=True)
class Backbone:
    """A network whose children run one after the other, and the children that end its stages.

    The first stage is the stem, whose map no pyramid takes; ``channels`` and ``strides`` are those of each stage's map.
    """

    net: nn.Module
    ends: tuple[str, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def freeze(self, trainable_layers: int | None) -> None:
        """Freeze all but the last stages; None trains all of them."""
        if trainable_layers is None:
            return
        if trainable_layers > len(self.ends):
            raise KDError(f"trainable_layers must be at most {len(self.ends)}, not {trainable_layers}")
        frozen = len(self.ends) - trainable_layers
        names = list(self.net._modules)
        end = names.index(self.ends[frozen - 1]) + 1 if frozen else 0
        for name in names[:end]:
            self.net.get_submodule(name).requires_grad_(False)

    def chosen(self, levels: Sequence[int] | None, least: int) -> list[int]:
        """The stages that a pyramid takes, by their numbers: from ``least`` on, or those of a config."""
        if levels is None:
            return list(range(least, len(self.ends)))
        if sorted(set(levels)) != list(levels) or not levels or levels[0] < 1 or levels[-1] >= len(self.ends):
            hint = f"such as [{', '.join(str(number) for number in range(1, len(self.ends)))}]"
            raise KDError(f"levels must be numbers of stages in order, not {list(levels)}", hint=hint, path="levels")
        return list(levels)


def backbone_of(
    name: str, *, norm: str = "batch", weights: str | None = None, width: int = 32, **parameters: Any
) -> Backbone:
    """A backbone by its name: ``cnn``, or one of torchvision's ResNets and MobileNets; KDError for another.

    ``weights`` are torchvision's of the whole classifier. Of ``cnn``, ``width`` is the number of the first stage's
    channels, of which each further one has twice those before it. ``parameters`` go to torchvision's classifier.
    """
    if name == SMALL:
        if weights is not None:
            raise KDError("there are no weights of the backbone cnn", path="weights_backbone")
        cut = small(width)
    else:
        cut = _cut(name, weights, parameters)
    if norm == "group" and weights is not None:
        hint = "take norm: frozen or norm: batch"
        raise KDError("there are no weights of a backbone with group norms", hint=hint, path="norm")
    convert_norms(cut.net, norm)
    return cut


def _cut(name: str, weights: str | None, parameters: Mapping[str, Any]) -> Backbone:
    names = torchvision_models.list_models(module=torchvision_models, include=list(CUT))
    if name not in names:
        raise KDError(f"there is no backbone {name!r}", hint=did_you_mean(name, [SMALL, *names]), path="backbone")
    net: Any = torchvision_models.get_model(name, weights=None, **parameters)
    if weights is not None:
        net.load_state_dict(state_of(name, weights), strict=False)
    return _resnet(net) if "resne" in name else _mobilenet(net.features)


def _resnet(net: Any) -> Backbone:
    layers = ("layer1", "layer2", "layer3", "layer4")
    channels = [_norms(getattr(net, layer))[-1].num_features for layer in layers]
    return Backbone(net, ("maxpool", *layers), (64, *channels), (4, 4, 8, 16, 32))


def _norms(layer: nn.Module) -> list[nn.BatchNorm2d]:
    """The batch norms of a layer before its shortcut's."""
    return [
        module for name, module in layer.named_modules() if isinstance(module, nn.BatchNorm2d) and "down" not in name
    ]


def _mobilenet(net: nn.Sequential) -> Backbone:
    """The last block at each resolution ends a stage; torchvision's own detectors take the first one instead."""
    strided = [index for index, block in enumerate(net) if getattr(block, "_is_cn", False)]
    ends = [index - 1 for index in strided] + [len(net) - 1]
    blocks: list[Any] = [net[index] for index in ends]
    strides = [2 << number for number in range(len(ends))]
    return Backbone(net, tuple(map(str, ends)), tuple(int(block.out_channels) for block in blocks), tuple(strides))


def small(width: int) -> Backbone:
    """A stem and four stages of two 3x3 convolutions, each at half the resolution of the one before."""
    net = nn.Sequential()
    net.add_module("stem", convolution(3, width, stride=2))
    channels = [width, *(width << number for number in range(4))]
    for number in range(4):
        first = convolution(channels[number], channels[number + 1], stride=2)
        second = convolution(channels[number + 1], channels[number + 1], stride=1)
        net.add_module(f"layer{number + 1}", nn.Sequential(first, second))
    ends = ("stem", "layer1", "layer2", "layer3", "layer4")
    return Backbone(net, ends, tuple(channels), (2, 4, 8, 16, 32))
