"""Detectors of ``runtime: fast`` on a CPU: the fast ways give what torchvision gives, up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign

from kd_core.device.folding import folded, halve
from kd_core.models.registry import MODELS
from kd_vision.detection.likeliest import likeliest
from kd_vision.detection.pooling import pooled
from kd_vision.detection.precision import fast_on_cpu
from kd_vision.detection.task import ObjectDetection

SIZES = [(128, 192), (120, 160)]
SMALL = {"backbone": "cnn", "width": 4, "pyramid_channels": 8, "num_classes": 5, "min_size": 128, "max_size": 192}


def boxes_of(count: int, seed: int = 0) -> Tensor:
    """Boxes that reach beyond images of :data:`SIZES`, some of them smaller than a position of a map."""
    chance = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=chance) * torch.tensor([200.0, 140.0]) - 10
    return torch.cat([corners, corners + torch.rand(count, 2, generator=chance) ** 3 * 150 + 0.5], 1)


@pytest.mark.parametrize(("levels", "size", "samples"), [(3, 7, 2), (1, (2, 5), 2), (2, 4, 3), (2, 4, 0)])
def test_proposals_are_cut_out_as_torchvision_does(levels: int, size: int, samples: int) -> None:
    torch.manual_seed(0)
    pool = MultiScaleRoIAlign([str(level) for level in range(levels)], size, samples, canonical_scale=64)
    maps = {str(level): torch.randn(2, 6, 16 >> level, 24 >> level, requires_grad=True) for level in range(levels)}
    boxes = [boxes_of(9), boxes_of(4, 1)]
    gradients = []
    for values in (pool(maps, boxes, SIZES), pooled(pool, {**maps, "pool": torch.empty(0)}, boxes, SIZES)):
        weights = torch.linspace(-1, 1, values.numel()).reshape(values.shape)
        gradients.append((values, *torch.autograd.grad((values * weights).sum(), list(maps.values()))))
    for value, expected in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_images_without_proposals_give_no_values() -> None:
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    assert pooled(pool, {"0": torch.zeros(1, 6, 8, 8)}, [torch.zeros(0, 4)], [(64, 64)]).shape == (0, 6, 3, 3)
    assert pooled(pool, {"0": torch.ones(2, 6, 8, 8)}, [torch.zeros(0, 4), boxes_of(2)], SIZES).shape == (2, 6, 3, 3)


@pytest.mark.parametrize(
    ("threshold", "wanted", "alike"), [(0.05, 10, 0.0), (0.05, 10, 6.0), (0.9, 10, 0.0), (0.0, 500, 0.0)]
)
def test_boxes_are_those_that_torchvision_keeps(threshold: float, wanted: int, alike: float) -> None:
    """``alike`` makes the likeliest boxes lie upon each other, so that looking at the first does not do."""
    torch.manual_seed(0)
    heads: RoIHeads = MODELS.get("faster_rcnn")(**SMALL).roi_heads
    heads.score_thresh, heads.detections_per_img = threshold, wanted
    proposals = [boxes_of(180).clamp(min=0), boxes_of(7, 2).clamp(min=0), torch.zeros(0, 4)]
    logits = torch.randn(187, 5)
    logits[:150, 1] += alike
    if alike:
        proposals[0][:150] = proposals[0][0] + torch.rand(150, 4)
    offsets, sizes = torch.randn(187, 20) * 0.1, [*SIZES, (64, 64)]
    expected = heads.postprocess_detections(logits, offsets, proposals, sizes)
    found = likeliest(heads, logits, offsets, proposals, sizes)
    for value, right in zip(found, expected, strict=True):
        torch.testing.assert_close(value, right, rtol=0, atol=1e-4)


def test_bf16_is_near_float32_and_the_fast_ways_are_nearer_to_bf16() -> None:
    torch.manual_seed(0)
    model, task = MODELS.get("faster_rcnn")(**SMALL, box_score_thresh=0.0), ObjectDetection()
    images = [torch.rand(3, 128, 192)]
    targets = [{"boxes": torch.tensor([[20.0, 20, 90, 80], [100, 30, 180, 120]]), "labels": torch.tensor([1, 3])}]

    def losses() -> Tensor:
        torch.manual_seed(1)  # which proposals are sampled
        return task.call(model.train(), {"images": images, "targets": targets})["loss"]

    exact = losses()
    with torch.autocast("cpu", torch.bfloat16):
        half = losses()
        half.backward()
    torch.testing.assert_close(half, exact, rtol=0.02, atol=0.02)
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None)
    assert model.roi_heads.box_head.fc6.weight.grad is not None


def test_nothing_is_left_in_the_model_and_what_a_user_wrote_stays() -> None:
    class Own(RoIHeads):
        def postprocess_detections(self, *arguments: object) -> None:
            """A user's own."""

    model = MODELS.get("faster_rcnn")(**SMALL)
    with fast_on_cpu(model):
        assert "forward" in vars(model.roi_heads.box_roi_pool)
        assert "postprocess_detections" in vars(model.roi_heads)
    assert not {"forward", "postprocess_detections"} & {*vars(model.roi_heads.box_roi_pool), *vars(model.roi_heads)}
    model.roi_heads.__class__ = Own
    with fast_on_cpu(model):
        assert "postprocess_detections" not in vars(model.roi_heads)


@pytest.mark.parametrize(("arch", "norm"), [("faster_rcnn", "batch"), ("retinanet", "frozen")])
def test_norms_of_detectors_are_folded(arch: str, norm: str) -> None:
    torch.manual_seed(0)
    model = MODELS.get(arch)(**{**SMALL, "backbone": "resnet18", "norm": norm}).eval()
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    cheap, image = folded(model, ()), torch.rand(1, 3, 64, 96)
    assert not [name for name, module in cheap.named_modules() if "BatchNorm" in type(module).__name__]
    with torch.no_grad():
        for value, expected in zip(cheap.backbone(image).values(), model.backbone(image).values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-4)
    halve(cheap)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ObjectDetection().call(cheap, {"images": [image[0]]})[0]["boxes"].dtype == torch.float32
