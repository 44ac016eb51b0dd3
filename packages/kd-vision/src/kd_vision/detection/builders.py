"""Detectors on any backbone with a pyramid of any width: students for configs, small enough for two cores.

``faster_rcnn``, ``mask_rcnn``, ``keypoint_rcnn``, ``retinanet``, ``fcos`` and ``gfl`` take the stages of a backbone
through a feature pyramid (Lin et al., CVPR 2017, arXiv 1612.03144). With ``backbone: resnet50`` and all else left out,
the keys and shapes of the state dicts of all but ``gfl`` are those of torchvision's models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from torchvision.models.detection import FCOS, FasterRCNN, KeypointRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSHead, FCOSRegressionHead
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.ranges import NonNegativeInt, PositiveInt
from kd_vision.detection.backbones import Backbone, backbone_of
from kd_vision.detection.gfl import GFL
from kd_vision.detection.parts import Classes, Norm, finished, group_norm, with_options

Sizes = Sequence[float] | Sequence[Sequence[float]]
"""The sides of the anchors of each level in pixels: one number, or several, for each level."""


@dataclass(frozen=True)
class Pyramid:
    """A backbone with a feature pyramid, the names of the levels that come from its stages, and all levels' strides."""

    backbone: BackboneWithFPN
    names: tuple[str, ...]
    strides: tuple[int, ...]
    channels: int

    def anchors(self, sizes: Sizes | None, ratios: Sequence[float], own: Sequence[Sequence[float]]) -> AnchorGenerator:
        """A generator of anchors of these sizes, ``own`` where there are none; KDError where levels do not match."""
        each: list[list[Any]] = [[*size] if isinstance(size, (list, tuple)) else [size] for size in (sizes or own)]
        if len(each) != len(self.strides):
            message = f"anchor_sizes must have an entry for each of {len(self.strides)} levels, not {len(each)}"
            raise KDError(message, path="anchor_sizes")
        if len({len(level) for level in each}) > 1 or not each[0]:
            raise KDError("anchor_sizes must have equally many sizes for each level", path="anchor_sizes")
        if min(size for level in each for size in level) <= 0 or not ratios or min(ratios) <= 0:
            raise KDError("anchor_sizes and aspect_ratios must be greater than 0", path="anchor_sizes")
        return AnchorGenerator(tuple(map(tuple, each)), (tuple(ratios),) * len(each))

    def pool(self, size: int) -> MultiScaleRoIAlign:
        """What cuts proposals out of the levels, ``size`` positions high and wide."""
        return MultiScaleRoIAlign(list(self.names), size, 2)


def _pyramid(cut: Backbone, stages: Sequence[int], channels: int, extra: nn.Module | None) -> BackboneWithFPN:
    layers = {cut.ends[stage]: str(number) for number, stage in enumerate(stages)}
    return BackboneWithFPN(cut.net, layers, [cut.channels[stage] for stage in stages], channels, extra)


def rcnn_pyramid(
    *,
    backbone: str = "resnet50",
    weights_backbone: str | None = None,
    width: PositiveInt = 32,
    norm: Norm = "batch",
    trainable_layers: NonNegativeInt | None = None,
    levels: list[int] | None = None,
    pyramid_channels: PositiveInt = 256,
) -> Pyramid:
    """A pyramid whose last level is every other position of the one before."""
    cut = backbone_of(backbone, norm=norm, weights=weights_backbone, width=width)
    cut.freeze(trainable_layers)
    stages = cut.chosen(levels, 1)
    strides = [cut.strides[stage] for stage in stages]
    names = tuple(str(number) for number in range(len(stages)))
    return Pyramid(_pyramid(cut, stages, pyramid_channels, None), names, (*strides, 2 * strides[-1]), pyramid_channels)


def dense_pyramid(
    *,
    backbone: str = "resnet50",
    weights_backbone: str | None = None,
    width: PositiveInt = 32,
    norm: Norm = "batch",
    trainable_layers: NonNegativeInt | None = None,
    levels: list[int] | None = None,
    extra_levels: Literal[0, 2] = 2,
    pyramid_channels: PositiveInt = 256,
) -> Pyramid:
    """A pyramid from the second stage on, with two further levels by convolutions of stride 2, or none."""
    cut = backbone_of(backbone, norm=norm, weights=weights_backbone, width=width)
    cut.freeze(trainable_layers)
    stages = cut.chosen(levels, 2)
    strides = [cut.strides[stage] for stage in stages]
    extra = LastLevelP6P7(pyramid_channels, pyramid_channels) if extra_levels else None
    pyramid = _pyramid(cut, stages, pyramid_channels, extra)
    if extra is None:
        pyramid.fpn.extra_blocks = None
    strides += [strides[-1] << number for number in range(1, extra_levels + 1)]
    return Pyramid(pyramid, tuple(str(number) for number in range(len(stages))), tuple(strides), pyramid_channels)


RATIOS = (0.5, 1.0, 2.0)


def _boxes(
    pyramid: Pyramid, num_classes: int, sizes: Sizes | None, ratios: Sequence[float], width: int
) -> dict[str, Any]:
    """What torchvision's R-CNNs take for proposals and boxes; anchors are eight times a level's stride by default."""
    return {
        "rpn_anchor_generator": pyramid.anchors(sizes, ratios, [[8 * stride] for stride in pyramid.strides]),
        "box_roi_pool": pyramid.pool(7),
        "box_head": TwoMLPHead(pyramid.channels * 7**2, width),
        "box_predictor": FastRCNNPredictor(width, num_classes),
    }


@MODELS("faster_rcnn")
@with_options(FasterRCNN, rcnn_pyramid)
def faster_rcnn(
    pyramid: Pyramid,
    *,
    num_classes: Classes = 91,
    anchor_sizes: Sizes | None = None,
    aspect_ratios: Sequence[float] = RATIOS,
    box_channels: PositiveInt = 1024,
    **options: Any,
) -> nn.Module:
    """Faster R-CNN (Ren et al., NeurIPS 2015, arXiv 1506.01497) with a feature pyramid."""
    boxes = _boxes(pyramid, num_classes, anchor_sizes, aspect_ratios, box_channels)
    return finished(FasterRCNN(pyramid.backbone, **boxes, **options))


@MODELS("mask_rcnn")
@with_options(MaskRCNN, rcnn_pyramid)
def mask_rcnn(
    pyramid: Pyramid,
    *,
    num_classes: Classes = 91,
    anchor_sizes: Sizes | None = None,
    aspect_ratios: Sequence[float] = RATIOS,
    box_channels: PositiveInt = 1024,
    mask_channels: PositiveInt = 256,
    mask_layers: PositiveInt = 4,
    **options: Any,
) -> nn.Module:
    """Mask R-CNN (He et al., ICCV 2017, arXiv 1703.06870) with a feature pyramid."""
    boxes = _boxes(pyramid, num_classes, anchor_sizes, aspect_ratios, box_channels)
    masks = {
        "mask_roi_pool": pyramid.pool(14),
        "mask_head": MaskRCNNHeads(pyramid.channels, (mask_channels,) * mask_layers, 1),
        "mask_predictor": MaskRCNNPredictor(mask_channels, mask_channels, num_classes),
    }
    return finished(MaskRCNN(pyramid.backbone, **boxes, **masks, **options))


@MODELS("keypoint_rcnn")
@with_options(KeypointRCNN, rcnn_pyramid)
def keypoint_rcnn(
    pyramid: Pyramid,
    *,
    num_classes: Classes = 2,
    num_keypoints: PositiveInt = 17,
    anchor_sizes: Sizes | None = None,
    aspect_ratios: Sequence[float] = RATIOS,
    box_channels: PositiveInt = 1024,
    keypoint_channels: PositiveInt = 512,
    keypoint_layers: PositiveInt = 8,
    **options: Any,
) -> nn.Module:
    """Keypoint R-CNN (He et al., ICCV 2017, arXiv 1703.06870) with a feature pyramid."""
    boxes = _boxes(pyramid, num_classes, anchor_sizes, aspect_ratios, box_channels)
    keypoints = {
        "keypoint_roi_pool": pyramid.pool(14),
        "keypoint_head": KeypointRCNNHeads(pyramid.channels, (keypoint_channels,) * keypoint_layers),
        "keypoint_predictor": KeypointRCNNPredictor(keypoint_channels, num_keypoints),
    }
    return finished(KeypointRCNN(pyramid.backbone, **boxes, **keypoints, **options))


@MODELS("retinanet")
@with_options(RetinaNet, dense_pyramid)
def retinanet(
    pyramid: Pyramid,
    *,
    num_classes: Classes = 91,
    anchor_sizes: Sizes | None = None,
    aspect_ratios: Sequence[float] = RATIOS,
    head_norm: Literal["group"] | None = None,
    **options: Any,
) -> nn.Module:
    """RetinaNet (Lin et al., ICCV 2017, arXiv 1708.02002); anchors are four times a level's stride and two between."""
    own = [[float(int(4 * stride * 2 ** (third / 3))) for third in range(3)] for stride in pyramid.strides]
    anchors = pyramid.anchors(anchor_sizes, aspect_ratios, own)
    norm = group_norm if head_norm else None
    head = RetinaNetHead(pyramid.channels, anchors.num_anchors_per_location()[0], num_classes, norm)
    return finished(RetinaNet(pyramid.backbone, num_classes, anchor_generator=anchors, head=head, **options))


@MODELS("fcos")
@with_options(FCOS, dense_pyramid)
def fcos(pyramid: Pyramid, *, num_classes: Classes = 91, head_layers: PositiveInt = 4, **options: Any) -> nn.Module:
    """FCOS (Tian et al., ICCV 2019, arXiv 1904.01355): boxes without anchors, from every position of the pyramid."""
    anchors = AnchorGenerator(tuple((stride,) for stride in pyramid.strides), ((1.0,),) * len(pyramid.strides))
    head = _fcos_head(pyramid.channels, num_classes, head_layers)
    return finished(FCOS(pyramid.backbone, num_classes, anchor_generator=anchors, head=head, **options))


@MODELS("gfl")
@with_options(GFL, dense_pyramid)
def gfl(
    pyramid: Pyramid,
    *,
    num_classes: Classes = 91,
    anchor_scale: PositiveInt = 8,
    reg_max: PositiveInt = 16,
    **options: Any,
) -> nn.Module:
    """GFL (Li et al., NeurIPS 2020, arXiv 2006.04388): a distribution over its distance for each side of a box."""
    parts = {"anchor_scale": anchor_scale, "reg_max": reg_max, **options}
    return finished(GFL(pyramid.backbone, num_classes, strides=pyramid.strides, **parts))


def _fcos_head(channels: int, num_classes: int, layers: int) -> FCOSHead:
    """FCOS's head, whose group norms are for pyramids of any width."""
    head = FCOSHead(32, 1, num_classes, layers)  # torchvision's own has groups of 32 only
    head.classification_head = FCOSClassificationHead(channels, 1, num_classes, layers, norm_layer=group_norm)
    head.regression_head = FCOSRegressionHead(channels, 1, layers, norm_layer=group_norm)
    return head
