"""Detectors on any backbone: what they learn, their levels, and what cannot be built."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.ops import FrozenBatchNorm2d

import kd_vision.detection.models  # noqa: F401  which registers models
from kd_core.errors import KDError
from kd_core.models.registry import MODELS
from kd_core.taps.landmarks import declared
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper

SMALL = {"backbone": "cnn", "width": 4, "norm": "group", "num_classes": 3}
PYRAMID = {**SMALL, "pyramid_channels": 8, "min_size": 64, "max_size": 64}
BOXES = {**PYRAMID, "box_channels": 8, "rpn_post_nms_top_n_train": 20, "rpn_post_nms_top_n_test": 20}
CASES: dict[str, dict[str, Any]] = {
    "faster_rcnn": BOXES,
    "mask_rcnn": {**BOXES, "mask_channels": 4, "mask_layers": 1},
    "keypoint_rcnn": {**BOXES, "keypoint_channels": 4, "keypoint_layers": 1, "num_keypoints": 2},
    "retinanet": PYRAMID,
    "fcos": {**PYRAMID, "head_layers": 1},
    "gfl": PYRAMID,
    "ssdlite": {**SMALL, "size": 64},
}
STRIDES = {**dict.fromkeys(("retinanet", "fcos", "gfl"), (8, 16, 32, 64, 128)), "ssdlite": (16, 32, 64, 128, 256, 512)}
IMAGES = [torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


def targets() -> list[dict[str, Tensor]]:
    """One box in each image, with a mask and two keypoints."""
    target = {
        "boxes": torch.tensor([[8.0, 8.0, 56.0, 48.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
        "keypoints": torch.tensor([[[20.0, 20.0, 1.0], [30.0, 40.0, 1.0]]]),
    }
    return [target, target]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def meta(name: str, **values: Any) -> Any:
    with torch.device("meta"):
        return MODELS.get(name)(**values)


@pytest.mark.parametrize("name", CASES)
def test_every_parameter_learns(name: str) -> None:
    model: Any = MODELS.get(name)(**CASES[name]).train()
    losses = model(IMAGES, targets())
    sum(losses.values()).backward()
    assert all(loss.ndim == 0 and torch.isfinite(loss) for loss in losses.values())
    idle = [key for key, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not idle


@pytest.mark.parametrize("name", CASES)
def test_weights_are_a_function_of_the_seed_and_carry_all_that_an_output_depends_on(name: str) -> None:
    models: list[Any] = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(MODELS.get(name)(**CASES[name]).eval())
    with torch.no_grad():
        first, again, other = (next(iter(model.backbone(torch.stack(IMAGES)).values())) for model in models)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    models[2].load_state_dict(models[0].state_dict())
    with torch.no_grad():
        pairs = zip(models[0](IMAGES), models[2](IMAGES), strict=True)
    assert all(torch.equal(found[key], expected[key]) for found, expected in pairs for key in expected)


@pytest.mark.parametrize("name", CASES)
def test_levels_are_landmarks_and_a_pass_stops_at_them(name: str) -> None:
    """The finest first; none is missing, and no head runs where nothing else is asked for."""
    model: Any = MODELS.get(name)(**CASES[name]).eval()
    wrapper = ForwardWrapper(model, [Tap("@features")], early_stop=True)
    with torch.no_grad():
        first = wrapper(IMAGES).at[Tap("@features")]
        second = wrapper(IMAGES)
    strides = STRIDES.get(name, (4, 8, 16, 32, 64))
    assert [level.shape[-1] for level in first] == [max(64 // stride, 1) for stride in strides]
    assert second.output is None
    assert all(torch.equal(*pair) for pair in zip(first, second.at[Tap("@features")], strict=True))
    with torch.no_grad():
        maps = list(model.backbone(torch.stack([model.transform.normalize(image) for image in IMAGES])).values())
    assert all(torch.equal(*pair) for pair in zip(first, maps, strict=True))


def test_the_layer_that_scores_classes_is_a_landmark() -> None:
    landmarks = declared(meta("faster_rcnn", **BOXES))
    assert landmarks is not None
    assert landmarks.classifier == "roi_heads.box_predictor.cls_score"
    assert landmarks.features[-1] == Tap("backbone.fpn.extra_blocks.pool")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("faster_rcnn", "fasterrcnn_resnet50_fpn"),
        ("mask_rcnn", "maskrcnn_resnet50_fpn"),
        ("keypoint_rcnn", "keypointrcnn_resnet50_fpn"),
        ("retinanet", "retinanet_resnet50_fpn"),
        ("fcos", "fcos_resnet50_fpn"),
    ],
)
def test_without_parameters_a_model_is_torchvisions(name: str, theirs: str) -> None:
    """Keys, shapes and anchors."""
    own = meta(name, num_classes=5)
    with torch.device("meta"):
        other = torchvision_models.get_model(theirs, weights=None, weights_backbone=None, num_classes=5)
    shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (own, other)]
    assert shapes[0] == shapes[1]
    generators = [getattr(each, "anchor_generator", None) or each.rpn.anchor_generator for each in (own, other)]
    assert [tuple(map(float, size)) for size in generators[0].sizes] == [
        tuple(map(float, size)) for size in generators[1].sizes
    ]
    assert generators[0].aspect_ratios == generators[1].aspect_ratios


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("resnet18", [64, 128, 256, 512]),
        ("resnext50_32x4d", [256, 512, 1024, 2048]),
        ("mobilenet_v3_large", [24, 40, 112, 960]),
        ("mobilenet_v3_small", [16, 24, 48, 576]),
        ("mobilenet_v2", [24, 32, 96, 1280]),
        ("cnn", [32, 64, 128, 256]),
    ],
)
def test_a_backbone_is_cut_at_the_last_map_of_each_resolution(backbone: str, channels: list[int]) -> None:
    model = meta("faster_rcnn", backbone=backbone, pyramid_channels=16)
    maps = model.backbone.body(torch.zeros(1, 3, 64, 64, device="meta"))
    assert [tuple(value.shape[1:]) for value in maps.values()] == [
        (count, size, size) for count, size in zip(channels, (16, 8, 4, 2), strict=True)
    ]


@pytest.mark.parametrize("skips", [False, True])
def test_images_that_were_scaled_before_are_not_scaled_again_in_training(skips: bool) -> None:
    model = MODELS.get("retinanet")(**PYRAMID, _skip_resize=skips)
    sizes = [model.train(training).transform([torch.rand(3, 40, 96)])[0].image_sizes[0] for training in (True, False)]
    assert sizes == [(40, 96) if skips else (26, 64), (26, 64)]


def test_levels_and_anchors_of_a_config() -> None:
    model = meta("faster_rcnn", **BOXES, levels=[1, 3], anchor_sizes=[8, [16], 32], aspect_ratios=[1.0])
    assert model.rpn.anchor_generator.sizes == ((8,), (16,), (32,))
    assert model.roi_heads.box_roi_pool.featmap_names == ["0", "1"]
    assert [value.shape[-1] for value in model.backbone(torch.zeros(1, 3, 64, 64, device="meta")).values()] == [
        16,
        4,
        2,
    ]
    dense = meta("retinanet", **PYRAMID, levels=[2, 3], extra_levels=0)
    assert dense.anchor_generator.sizes == ((32.0, 40.0, 50.0), (64.0, 80.0, 101.0))
    assert meta("fcos", **PYRAMID, levels=[1, 2], extra_levels=0).anchor_generator.sizes == ((4,), (8,))


@pytest.mark.parametrize(("count", "first"), [(5, "conv1"), (4, "layer1"), (1, "layer4"), (0, None)])
def test_the_last_layers_are_trained(count: int, first: str | None) -> None:
    body = meta("faster_rcnn", backbone="resnet18", norm="frozen", trainable_layers=count).backbone.body
    trained = [key.partition(".")[0] for key, value in body.named_parameters() if value.requires_grad]
    assert (trained[0] if trained else None) == first


def test_norms_are_frozen_or_in_groups() -> None:
    frozen = meta("retinanet", backbone="mobilenet_v3_small", norm="frozen").backbone.body
    kinds = {type(module) for module in frozen.modules() if "Norm" in type(module).__name__}
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    groups = [
        module for module in meta("fcos", backbone="resnet18", norm="group").modules() if type(module) is nn.GroupNorm
    ]
    assert {module.num_groups for module in groups} == {32}
    narrow = meta("ssdlite", backbone="mobilenet_v3_small", norm="group")
    assert all(
        module.num_channels % module.num_groups == 0 for module in narrow.modules() if type(module) is nn.GroupNorm
    )
    assert not any(isinstance(module, nn.BatchNorm2d) for module in narrow.modules())


def test_frozen_norms_keep_what_the_batch_norms_held(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: Any = torchvision_models.mobilenet_v3_small(weights=None)
    for value in (*trained.parameters(), *(buffer for buffer in trained.buffers() if buffer.ndim)):
        value.data.uniform_(0.5, 1.5)
    monkeypatch.setattr("kd_vision.detection.backbones.state_of", lambda backbone, weights: trained.state_dict())
    values = {"backbone": "mobilenet_v3_small", "norm": "frozen", "pyramid_channels": 8, "box_channels": 8}
    model: Any = MODELS.get("faster_rcnn")(**values, weights_backbone="IMAGENET1K_V1").train()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found = model.backbone.body(images)["3"]
        expected = trained.features.eval()(images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("faster_rcnn", {"backbone": "resnet81"}, "there is no backbone 'resnet81'.*did you mean 'resnet18'"),
        ("faster_rcnn", {"backbone": "vgg16"}, "there is no backbone 'vgg16'"),
        ("faster_rcnn", {"backbone": "cnn", "weights_backbone": "IMAGENET1K_V1"}, "no weights of the backbone cnn"),
        ("faster_rcnn", {"trainable_layers": 6}, "trainable_layers must be at most 5, not 6"),
        ("faster_rcnn", {"levels": [0, 1]}, r"levels must be numbers of stages in order, not \[0, 1\]"),
        ("faster_rcnn", {"levels": [2, 1]}, r"such as \[1, 2, 3, 4\]"),
        ("faster_rcnn", {"anchor_sizes": [8, 16]}, "an entry for each of 5 levels, not 2"),
        ("faster_rcnn", {"anchor_sizes": [8, 16, 32, 64, [1, 2]]}, "equally many sizes for each level"),
        ("retinanet", {"aspect_ratios": []}, "aspect_ratios must be greater than 0"),
        ("retinanet", {"fg_iou_thresh": 0.1}, "retinanet: "),
        ("retinanet", {"pyramid_chanels": 8}, "has no parameter 'pyramid_chanels'.*did you mean 'pyramid_channels'"),
        ("mask_rcnn", {"mask_layers": 0}, "mask_layers must be at least 1"),
        ("ssdlite", {"anchor_scales": [0.9, 0.2]}, "the smaller one first"),
        ("ssdlite", {"aspect_ratios": [0.0]}, "aspect_ratios must be numbers greater than 0"),
    ],
)
def test_what_cannot_be_built_is_an_error(name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError) as caught:
        meta(name, **values)
    assert re.search(says, str(caught.value), re.DOTALL)


def test_group_norms_have_no_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_vision.detection.backbones.state_of", lambda backbone, weights: {})
    with pytest.raises(KDError, match="no weights of a backbone with group norms"):
        meta("fcos", backbone="resnet18", norm="group", weights_backbone="IMAGENET1K_V1")
