"""Detectors in bf16: what needs more digits is computed in float32, and what torchvision is slow at another way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from kd_core.taps.nested import map_tensors
from kd_vision.detection.likeliest import likeliest
from kd_vision.detection.pooling import pooled

HEADS = ("head", "rpn.head", *(f"roi_heads.{kind}_predictor" for kind in ("box", "mask", "keypoint")))
"""Where torchvision's detectors have the layers whose outputs become losses, boxes and scores."""


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Within the block, a detector of torchvision under autocast makes anchors, losses and boxes in float32.

    torchvision makes anchors in the type of the feature maps, and bf16 has eight digits: it cannot tell a pixel beyond
    256 from the next. Sums over a hundred thousand anchors lose as much.
    """
    handles = [
        module.register_forward_pre_hook(_like_float32)
        for module in model.modules()
        if isinstance(module, (AnchorGenerator, DefaultBoxGenerator))
    ]
    for path in HEADS:
        head: Any = model
        for name in path.split("."):
            head = getattr(head, name, None)
        if isinstance(head, nn.Module):
            handles.append(head.register_forward_hook(_output_in_float32))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def fast_on_cpu(model: nn.Module) -> Iterator[None]:
    """Within the block, an R-CNN of torchvision on a CPU cuts out its proposals and makes its boxes the fast way.

    What comes out is equal up to rounding, so that this is for models in bf16, which round more. Methods of subclasses
    stay.
    """
    changed: list[tuple[nn.Module, str]] = []
    for module in model.modules():
        if type(module) is MultiScaleRoIAlign:
            module.forward = partial(pooled, module)
            changed.append((module, "forward"))
        elif isinstance(module, RoIHeads) and type(module).postprocess_detections is RoIHeads.postprocess_detections:
            module.postprocess_detections = partial(likeliest, module)
            changed.append((module, "postprocess_detections"))
    try:
        yield
    finally:
        for module, name in changed:
            delattr(module, name)


def _like_float32(module: nn.Module, arguments: tuple[Any, list[Tensor]]) -> tuple[Any, list[Tensor]]:
    """In place of feature maps, of which a generator reads shape, device and type, float32 ones without memory."""
    images, maps = arguments
    return images, [torch.zeros((), device=features.device).expand(features.shape) for features in maps]


def _output_in_float32(module: nn.Module, arguments: Any, output: Any) -> Any:
    return map_tensors(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor, output)
