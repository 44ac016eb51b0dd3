"""Segmentation models for configs: FCN, DeepLabv3 and LRASPP on torchvision's backbones, and torchvision's weights.

Each takes images (B, 3, H, W) and returns ``{"out": (B, C, H, W)}`` logits, with an auxiliary head ``"aux"`` too. State
dicts are those of torchvision's models of that name, key for key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torchvision import models as torchvision_models
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import FCN, LRASPP, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead

from kd_core.data.spec import IMAGENET_MEAN, IMAGENET_STD
from kd_core.download import fetch
from kd_core.errors import KDError, did_you_mean
from kd_core.models.registry import MODELS, ZOOS, WeightCard
from kd_core.models.versions import VersionedZoo, version_of
from kd_core.models.weights import read_state
from kd_core.ranges import PositiveInt
from kd_seg.models.timm_backbones import PREFIX as TIMM
from kd_seg.models.timm_backbones import TimmMaps, timm_maps

PREFIX = "torchvision."
AUX = ("aux_classifier.",)
Stride = Literal[8, 16, 32]


@dataclass(frozen=True)
class Features:
    """A backbone cut for segmentation: maps by name with their channels, those at 1/8 of the image (``low``) included.

    ``aux`` is what an auxiliary head reads.
    """

    net: nn.Module
    out: tuple[str, int]
    aux: tuple[str, int]
    low: tuple[str, int]

    listed: bool = False
    """Whether the net gives a list of maps, whose numbers are the names."""

    def getter(self, **names: str) -> nn.Module:
        """A module that returns those maps: layer name -> key."""
        if self.listed:
            return TimmMaps(self.net, {int(number): key for number, key in names.items()})
        return IntermediateLayerGetter(self.net, return_layers=names)


def features(backbone: str, weights: str | None, output_stride: Stride | None) -> Features:
    """torchvision's classifier ``backbone``, or one of timm (``timm.NAME``), without its head; KDError for one that
    has no such stages.

    ``weights`` are torchvision's, by name (``IMAGENET1K_V1``). ``output_stride`` is how much smaller than the image the
    last map is: by default 8 for ResNets and 16 for MobileNets, as torchvision has them; dilation takes the place of
    the strides left out.
    """
    if backbone.startswith(TIMM):
        net, maps, low = timm_maps(backbone, weights, output_stride or 8)
        return Features(net, maps[-1], maps[-2], maps[low], listed=True)
    if backbone not in torchvision_models.list_models(module=torchvision_models):
        names = torchvision_models.list_models(module=torchvision_models, include=["*resne*", "mobilenet_v3*"])
        raise KDError(f"torchvision has no backbone {backbone!r}", hint=did_you_mean(backbone, names))
    if "resne" in backbone:
        return _resnet(backbone, weights, output_stride or 8)
    if backbone.startswith("mobilenet_v3"):
        return _mobilenet(backbone, weights, output_stride or 16)
    raise KDError(f"{backbone} has no stages to cut out", hint="take a resnet, resnext, wide_resnet or mobilenet_v3")


def _resnet(backbone: str, weights: str | None, stride: Stride) -> Features:
    net: Any = torchvision_models.get_model(backbone)
    load_backbone(net, backbone, weights)
    for name, dilation in {8: {"layer3": 2, "layer4": 4}, 16: {"layer4": 2}, 32: {}}[stride].items():
        _dilate(getattr(net, name), dilation)
    widths = {name: _channels(getattr(net, name)) for name in ("layer2", "layer3", "layer4")}
    return Features(net, ("layer4", widths["layer4"]), ("layer3", widths["layer3"]), ("layer2", widths["layer2"]))


def _channels(layer: nn.Module) -> int:
    """The channels that a ResNet's layer gives: those of its last normalisation."""
    norms = [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)]
    return norms[-1].num_features


def _dilate(layer: nn.Module, dilation: int) -> None:
    """Take the stride out of a ResNet's layer; the first 3x3 kernel after it still sees what it saw before."""
    first = True
    for module in layer.modules():
        if isinstance(module, nn.Conv2d):
            if module.kernel_size == (3, 3):
                step = dilation // 2 if first else dilation
                module.dilation = module.padding = (step, step)
                first = False
            module.stride = (1, 1)


def _mobilenet(backbone: str, weights: str | None, stride: Stride) -> Features:
    if stride == 8:
        raise KDError("output_stride 8 is for ResNets", hint=f"{backbone} has 16 or 32")
    classifier: Any = torchvision_models.get_model(backbone, dilated=stride == 16)
    load_backbone(classifier, backbone, weights)
    net = classifier.features
    # as torchvision counts: the stem, every block that halves the resolution, or would, and the last convolution
    stages = [0, *(index for index, block in enumerate(net) if getattr(block, "_is_cn", False)), len(net) - 1]
    return Features(
        net,
        (str(stages[-1]), net[stages[-1]].out_channels),
        (str(stages[-4]), net[stages[-4]].out_channels),
        (str(stages[-4]), net[stages[-4]].out_channels),
    )


def load_backbone(net: nn.Module, backbone: str, weights: str | None) -> None:
    """Put torchvision's weights into a classifier; KDError for a name it has none of, or without network."""
    if weights is None:
        return
    versions = torchvision_models.get_model_weights(backbone)
    if weights not in versions.__members__:
        hint = did_you_mean(weights, list(versions.__members__))
        raise KDError(f"{backbone} has no weights {weights!r}", hint=hint, path="weights_backbone")
    url = versions[weights].url
    net.load_state_dict(read_state(fetch(url, sha256=Path(url).stem.rpartition("-")[2])))


class _Optional(nn.Module):
    """A model that takes weights with an auxiliary head even where it was built without one."""

    spare_weights = AUX


class Fcn(FCN, _Optional):
    """torchvision's FCN."""


class DeepLab(DeepLabV3, _Optional):
    """torchvision's DeepLabv3."""


@MODELS("fcn")
def fcn(
    *,
    backbone: str = "resnet50",
    num_classes: PositiveInt = 21,
    aux_loss: bool = False,
    weights_backbone: str | None = None,
    output_stride: Stride | None = None,
) -> nn.Module:
    """Fully convolutional network (Long et al., CVPR 2015, arXiv 1411.4038), as in torchvision."""
    cut = features(backbone, weights_backbone, output_stride)
    return Fcn(_with_aux(cut, aux_loss), FCNHead(cut.out[1], num_classes), _aux(cut, num_classes, aux_loss))


@MODELS("deeplabv3")
def deeplabv3(
    *,
    backbone: str = "resnet50",
    num_classes: PositiveInt = 21,
    aux_loss: bool = False,
    weights_backbone: str | None = None,
    output_stride: Stride | None = None,
) -> nn.Module:
    """DeepLabv3 (Chen et al., 2017, arXiv 1706.05587), as in torchvision."""
    cut = features(backbone, weights_backbone, output_stride)
    return DeepLab(_with_aux(cut, aux_loss), DeepLabHead(cut.out[1], num_classes), _aux(cut, num_classes, aux_loss))


@MODELS("lraspp")
def lraspp(
    *,
    backbone: str = "mobilenet_v3_large",
    num_classes: PositiveInt = 21,
    weights_backbone: str | None = None,
    output_stride: Stride | None = None,
) -> nn.Module:
    """Lite reduced ASPP (Howard et al., MobileNetV3, ICCV 2019, arXiv 1905.02244), as in torchvision."""
    cut = features(backbone, weights_backbone, output_stride)
    layers = {cut.low[0]: "low", cut.out[0]: "high"}
    return LRASPP(cut.getter(**layers), cut.low[1], cut.out[1], num_classes)


def _with_aux(cut: Features, aux_loss: bool) -> nn.Module:
    return cut.getter(**{cut.out[0]: "out", **({cut.aux[0]: "aux"} if aux_loss else {})})


def _aux(cut: Features, num_classes: int, aux_loss: bool) -> nn.Module | None:
    return FCNHead(cut.aux[1], num_classes) if aux_loss else None


FAMILIES: dict[str, Callable[..., nn.Module]] = {"fcn": fcn, "deeplabv3": deeplabv3, "lraspp": lraspp}


def _register(name: str) -> None:
    family, _, backbone = name.partition("_")
    make = FAMILIES[family]

    if family == "lraspp":

        @MODELS(PREFIX + name)
        def build(*, num_classes: PositiveInt = 21, weights_backbone: str | None = None) -> nn.Module:
            return make(backbone=backbone, num_classes=num_classes, weights_backbone=weights_backbone)
    else:

        @MODELS(PREFIX + name)
        def build(
            *, num_classes: PositiveInt = 21, aux_loss: bool = False, weights_backbone: str | None = None
        ) -> nn.Module:
            return make(
                backbone=backbone, num_classes=num_classes, aux_loss=aux_loss, weights_backbone=weights_backbone
            )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"torchvision's {name}, without weights unless weights_backbone names some of its backbone."


NAMES = torchvision_models.list_models(module=torchvision_models.segmentation)
for _name in NAMES:
    _register(_name)


def card_of(arch: str, version: str = "") -> WeightCard:
    """The card of torchvision's weights, the best where no version is named; KDError with the versions there are."""
    weights = version_of(torchvision_models.get_model_weights(arch), PREFIX + arch, version)
    scores: Mapping[str, float] = weights.meta["_metrics"]["COCO-val2017-VOC-labels"]
    return WeightCard(
        name=f"{PREFIX}{arch}.{weights.name}",
        arch=PREFIX + arch,
        dataset="coco2017",
        url=weights.url,
        sha256=Path(weights.url).stem.rpartition("-")[2].rpartition("_")[2],  # how PyTorch names its files
        licence=weights.meta.get("license", "BSD-3-Clause"),
        parameters={"num_classes": len(weights.meta["categories"])},
        input_size=(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published={"miou": scores["miou"], "pixel_accuracy": scores["pixel_acc"]},
        source=weights.meta.get("recipe", ""),
        package="kd-seg",
    )


ZOOS("torchvision-segmentation")(VersionedZoo(PREFIX, NAMES, card_of))
