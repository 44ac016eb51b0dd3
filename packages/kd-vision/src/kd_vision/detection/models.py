"""Detectors for configs: torchvision's, by their names there, and the weights that were published for COCO.

Each takes images (a list of (3, H, W) in [0, 1]) and, in training mode, targets; it returns a mapping of losses in
training mode and a list of detections in evaluation mode. Nothing is downloaded but what a config names, and state
dicts are those of torchvision's models, key for key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models as torchvision_models
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD

import kd_vision.detection.builders  # noqa: F401  which registers models
from kd_core.data.spec import IMAGENET_MEAN, IMAGENET_STD
from kd_core.errors import KDError
from kd_core.models.registry import MODELS, ZOOS, WeightCard
from kd_core.models.versions import VersionedZoo, version_of
from kd_core.ranges import NonNegativeFloat, NonNegativeInt
from kd_vision.detection.parts import BackboneOrder, Classes, OwnNorm, finished, with_options
from kd_vision.detection.ssdlite import mobile_ssdlite

PREFIX = "torchvision."
NAMES = torchvision_models.list_models(module=torchvision_models.detection)
SSDLITE = "ssdlite320_mobilenet_v3_large"
FAMILIES: dict[str, type[nn.Module]] = {
    "fasterrcnn": FasterRCNN,
    "fcos": FCOS,
    "keypointrcnn": KeypointRCNN,
    "maskrcnn": MaskRCNN,
    "retinanet": RetinaNet,
    "ssd300": SSD,
    "ssdlite320": SSD,
}
CLASSIFIERS = ("resnet50", "mobilenet_v3_large", "vgg16")
FROZEN_ZERO = (
    "fasterrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
)
"""Models whose published weights were trained with frozen batch norms that add no epsilon."""
FROZEN = (
    *FROZEN_ZERO,
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fcos_resnet50_fpn",
)
"""Models whose published weights were trained with frozen batch norms in the backbone."""
SCORES = {"box_map": "ap", "mask_map": "mask_ap", "kp_map": "keypoint_ap"}
"""torchvision's names of published figures -> ours."""


def family_of(name: str) -> type[nn.Module]:
    """torchvision's class of the model of that name."""
    return FAMILIES[name.partition("_")[0]]


def classifier_of(name: str) -> str:
    """The classifier that a detector's backbone is cut from."""
    return next(classifier for classifier in CLASSIFIERS if classifier in name)


def _register(name: str) -> None:
    make: Callable[..., Any] = torchvision_models.get_model_builder(name)
    classes = 2 if name.startswith("keypointrcnn") else 91

    def build(
        *,
        num_classes: Classes = classes,
        weights_backbone: str | None = None,
        trainable_layers: NonNegativeInt | None = None,
        norm: OwnNorm = "batch",
        norm_eps: NonNegativeFloat | None = None,
        **options: Any,
    ) -> nn.Module:
        model = make(weights=None, weights_backbone=None, num_classes=num_classes, **options)
        order = BackboneOrder(model, classifier_of(name))
        if weights_backbone is not None:
            order.load(weights_backbone)
        if trainable_layers is not None:
            order.freeze(trainable_layers)
        return finished(model, norm=norm, norm_eps=norm_eps)

    build.__name__ = build.__qualname__ = PREFIX + name
    build.__doc__ = f"torchvision's {name}, without weights unless weights_backbone names some of its backbone."
    MODELS(PREFIX + name)(with_options(family_of(name))(build))


for _name in NAMES:
    if _name != SSDLITE:
        _register(_name)


def _ssdlite320(
    *,
    num_classes: Classes = 91,
    weights_backbone: str | None = None,
    trainable_layers: NonNegativeInt | None = None,
    norm: OwnNorm = "batch",
    reduced_tail: bool = True,
    **options: Any,
) -> nn.Module:
    if weights_backbone is not None and reduced_tail:
        hint = "write reduced_tail: false, as torchvision does with them"
        raise KDError("the weights of a backbone have no reduced tail", hint=hint, path="weights_backbone")
    model = mobile_ssdlite(num_classes, reduced_tail=reduced_tail, **options)
    order = BackboneOrder(model, "mobilenet_v3_large", reduced_tail=reduced_tail)
    if weights_backbone is not None:
        order.load(weights_backbone)
    if trainable_layers is not None:
        order.freeze(trainable_layers)
    return finished(model, norm=norm)


_ssdlite320.__name__ = _ssdlite320.__qualname__ = PREFIX + SSDLITE
_ssdlite320.__doc__ = f"torchvision's {SSDLITE}, without weights unless weights_backbone names some of its backbone."
MODELS(PREFIX + SSDLITE)(with_options(SSD)(_ssdlite320))


def card_of(arch: str, version: str = "") -> WeightCard:
    """The card of torchvision's weights, the best where no version is named; KDError with the versions there are."""
    weights = version_of(torchvision_models.get_model_weights(arch), PREFIX + arch, version)
    scores: Mapping[str, float] = weights.meta["_metrics"]["COCO-val2017"]
    parameters: dict[str, Any] = {"num_classes": len(weights.meta["categories"])}
    if arch in FROZEN:
        parameters["norm"] = "frozen"
    if arch in FROZEN_ZERO and weights.name == "COCO_V1":
        parameters["norm_eps"] = 0.0
    if "keypoint_names" in weights.meta:
        parameters["num_keypoints"] = len(weights.meta["keypoint_names"])
    return WeightCard(
        name=f"{PREFIX}{arch}.{weights.name}",
        arch=PREFIX + arch,
        dataset="coco2017",
        url=weights.url,
        sha256=Path(weights.url).stem.rpartition("-")[2],  # how PyTorch names its files
        licence=weights.meta.get("license", "BSD-3-Clause"),
        parameters=parameters,
        input_size=(),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published={SCORES[key]: value for key, value in scores.items()},
        source=weights.meta.get("recipe", ""),
        package="kd-vision",
        task="object_detection",
    )


ZOOS("torchvision-detection")(VersionedZoo(PREFIX, NAMES, card_of))
