"""SSDLite on any backbone: a detector for images of one size, without a pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops.misc import Conv2dNormActivation

from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.ranges import NonNegativeInt, PositiveInt
from kd_vision.detection.backbones import Backbone, backbone_of
from kd_vision.detection.parts import Classes, Norm, finished, group_norm, with_options

BATCH: Callable[..., nn.Module] = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
EXTRA = (512, 256, 256, 128)
"""The channels of the layers after the backbone."""
CENTRED = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
"""torchvision's MobileNet detector takes images in [-1, 1]."""
OWN = {"score_thresh": 0.001, "nms_thresh": 0.55, "detections_per_img": 300, "topk_candidates": 300}
"""torchvision's values for SSDLite where a config has none."""


class MapsAndExtra(nn.Module):
    """The last two maps of a backbone and those of four more layers: images (B, 3, H, W) -> six maps by their numbers.

    ``channels`` are those of each.
    """

    def __init__(self, first: nn.Module, second: nn.Module, channels: tuple[int, int], norm: Callable[..., nn.Module]):
        super().__init__()
        self.features = nn.Sequential(first, second)
        widths = (channels[1], *EXTRA)
        self.extra = nn.ModuleList(extra_layer(*pair, norm) for pair in pairwise(widths))
        draw(self.extra)
        self.channels = [*channels, *EXTRA]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps, the finest first."""
        maps: OrderedDict[str, Tensor] = OrderedDict()
        for layer in (*self.features, *self.extra):
            images = layer(images)
            maps[str(len(maps))] = images
        return maps


def extra_layer(in_width: int, width: int, norm: Callable[..., nn.Module]) -> nn.Sequential:
    """Half the channels, a depthwise convolution of stride 2, all channels: (B, C, H, W) -> (B, width, H/2, W/2)."""
    half = width // 2
    layer = partial(Conv2dNormActivation, norm_layer=norm, activation_layer=nn.ReLU6)
    return nn.Sequential(
        layer(in_width, half, kernel_size=1),
        layer(half, half, kernel_size=3, stride=2, groups=half),
        layer(half, width, kernel_size=1),
    )


def draw(module: nn.Module) -> None:
    """Draw the weights of convolutions as torchvision's SSDLite does: normal with a deviation of 0.03, biases 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.03)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _maps(cut: Backbone, norm: Callable[..., nn.Module]) -> MapsAndExtra:
    """A backbone cut before its last stage; an inverted residual block that begins it, after its expansion."""
    layers = dict(cut.net.named_children())
    names = list(layers)
    before, end = names.index(cut.ends[-2]) + 1, names.index(cut.ends[-1]) + 1
    block = getattr(layers[names[before]], "block", None)
    if block is None:
        parts = [
            nn.Sequential(OrderedDict((name, layers[name]) for name in part))
            for part in (names[:before], names[before:end])
        ]
        return MapsAndExtra(parts[0], parts[1], (cut.channels[-2], cut.channels[-1]), norm)
    first = nn.Sequential(*(layers[name] for name in names[:before]), block[0])
    second = nn.Sequential(block[1:], *(layers[name] for name in names[before + 1 : end]))
    return MapsAndExtra(first, second, (block[0].out_channels, cut.channels[-1]), norm)


def build_ssdlite(
    cut: Backbone,
    num_classes: int,
    norm: Callable[..., nn.Module],
    options: Mapping[str, Any],
    *,
    size: int = 320,
    ratios: Sequence[float] = (2, 3),
    scales: Sequence[float] = (0.2, 0.95),
) -> SSD:
    """SSD with separable heads on a backbone."""
    maps = _maps(cut, norm)
    anchors = DefaultBoxGenerator([list(ratios) for _ in maps.channels], min_ratio=scales[0], max_ratio=scales[1])
    head = SSDLiteHead(maps.channels, anchors.num_anchors_per_location(), num_classes, norm)
    return SSD(maps, anchors, (size, size), num_classes, head=head, **{**OWN, **options})


def mobile_ssdlite(num_classes: int, *, reduced_tail: bool, **options: Any) -> SSD:
    """torchvision's SSDLite320 on MobileNetV3, with random weights."""
    cut = backbone_of("mobilenet_v3_large", norm_layer=BATCH, reduced_tail=reduced_tail)
    draw(cut.net)
    return build_ssdlite(cut, num_classes, BATCH, {**CENTRED, **options})


@MODELS("ssdlite")
@with_options(SSD)
def ssdlite(
    *,
    backbone: str = "mobilenet_v3_large",
    weights_backbone: str | None = None,
    width: PositiveInt = 32,
    norm: Norm = "batch",
    trainable_layers: NonNegativeInt | None = None,
    num_classes: Classes = 91,
    size: PositiveInt = 320,
    aspect_ratios: Sequence[float] = (2.0, 3.0),
    anchor_scales: Sequence[float] = (0.2, 0.95),
    **options: Any,
) -> nn.Module:
    """SSDLite (Sandler et al., CVPR 2018, arXiv 1801.04381): images are scaled to ``size`` by ``size`` pixels.

    ``anchor_scales`` are the sides of the smallest and the largest anchors as parts of an image's.
    """
    if len(anchor_scales) != 2 or not 0 < anchor_scales[0] < anchor_scales[1]:
        raise KDError(f"anchor_scales must be two numbers, the smaller one first, not {anchor_scales}")
    if not aspect_ratios or min(aspect_ratios) <= 0:
        raise KDError(f"aspect_ratios must be numbers greater than 0, not {aspect_ratios}")
    mobile = backbone.startswith("mobilenet")
    cut = backbone_of(
        backbone, norm=norm, weights=weights_backbone, width=width, **({"norm_layer": BATCH} if mobile else {})
    )
    cut.freeze(trainable_layers)
    if weights_backbone is None and mobile:
        draw(cut.net)
    layers = group_norm if norm == "group" else BATCH
    options = {**(CENTRED if weights_backbone is None and mobile else {}), **options}
    model = build_ssdlite(cut, num_classes, layers, options, size=size, ratios=aspect_ratios, scales=anchor_scales)
    return finished(model)
