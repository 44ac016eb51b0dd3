"""torchvision's detectors by their names: built alike, with published weights or those of a backbone, and frozen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.models._api import WeightsEnum

from kd_core.errors import KDError
from kd_core.models.registry import MODELS, ZOOS, find_card
from kd_core.models.weights import load_state
from kd_core.signatures import values_of
from kd_vision.detection.models import NAMES, PREFIX, card_of, classifier_of
from kd_vision.detection.parts import BackboneOrder

SMALL = "fasterrcnn_mobilenet_v3_large_320_fpn"
LITE = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def meta(name: str, **values: Any) -> Any:
    with torch.device("meta"):
        return MODELS.get(name)(**values)


def structure(model: nn.Module) -> str:
    """Every module with its parameters and its place, but for the level that torchvision computes by a function."""
    pooled = r"PooledLevel\(\s*\(pool\): MaxPool2d\([^)]*\)\s*\)|LastLevelMaxPool\(\)"
    return re.sub(r"SSDLiteFeatureExtractorMobileNet|MapsAndExtra", "Maps", re.sub(pooled, "Last()", str(model)))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_with_published_weights_is_torchvisions(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms, their epsilons, sizes, thresholds and keys; nothing is downloaded."""
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda weights, **options: {})
    for version in torchvision_models.get_model_weights(name).__members__:
        with torch.device("meta"):
            own = MODELS.get(PREFIX + name)(**card_of(name, version).parameters)
            with monkeypatch.context() as patched:
                patched.setattr(nn.Module, "load_state_dict", lambda module, state, strict=True: None)
                theirs = torchvision_models.get_model(name, weights=version)
        assert structure(own) == structure(theirs)
        shapes = [{key: value.shape for key, value in each.state_dict().items()} for each in (own, theirs)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", [SMALL, LITE])
def test_outputs_are_torchvisions(name: str) -> None:
    theirs = torchvision_models.get_model(name, weights=None, weights_backbone=None, num_classes=4).eval()
    own = MODELS.get(PREFIX + name)(num_classes=4).eval()
    own.load_state_dict(theirs.state_dict())
    images = [torch.rand(3, 40, 56), torch.rand(3, 48, 32)]
    with torch.no_grad():
        pairs = zip(own(images), theirs(images), strict=True)
    for found, expected in pairs:
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_options_reach_torchvisions_class() -> None:
    model = meta(PREFIX + SMALL, min_size=64, max_size=96, box_score_thresh=0.3, box_detections_per_img=7)
    assert (model.transform.min_size, model.transform.max_size) == ((64,), 96)
    assert (model.roi_heads.score_thresh, model.roi_heads.detections_per_img) == (0.3, 7)
    assert model.rpn._pre_nms_top_n["testing"] == 150  # torchvision's own for this model
    assert meta(PREFIX + LITE, detections_per_img=9).detections_per_img == 9
    assert meta(f"{PREFIX}keypointrcnn_resnet50_fpn", num_keypoints=5).roi_heads.keypoint_predictor.out_channels == 5


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        (SMALL, {"box_score_tresh": 0.5}, "has no parameter 'box_score_tresh'.*did you mean 'box_score_thresh'"),
        (SMALL, {"box_score_thresh": 1.5}, r"box_score_thresh must be in \[0, 1\]"),
        (SMALL, {"num_classes": 1}, "num_classes must be at least 2"),
        (SMALL, {"image_std": [0.5, 0.0, 0.5]}, "image_std must be three numbers greater than 0"),
        (SMALL, {"box_fg_iou_thresh": 0.2}, f"torchvision.{SMALL}: "),
        (SMALL, {"trainable_layers": 7}, "trainable_layers must be at most 6, not 7"),
        (SMALL, {"weights_backbone": "IMAGENET"}, "mobilenet_v3_large has no weights 'IMAGENET'"),
        (SMALL, {"norm_eps": 0.0}, "there is no frozen batch norm"),
        ("ssd300_vgg16", {"norm": "frozen"}, "the backbone has no batch norms"),
        (LITE, {"weights_backbone": "IMAGENET1K_V1"}, "reduced_tail: false"),
        (LITE, {"min_size": 320}, "has no parameter 'min_size'"),
    ],
)
def test_what_cannot_be_built_is_an_error(name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError) as caught:
        meta(PREFIX + name, **values)
    assert re.search(says, str(caught.value), re.DOTALL)


def test_the_signature_names_every_option_with_its_range() -> None:
    values = values_of(MODELS.get(PREFIX + SMALL))
    assert list(values)[:5] == ["num_classes", "weights_backbone", "trainable_layers", "norm", "norm_eps"]
    assert values["num_classes"].default == 91
    assert {"min_size", "box_detections_per_img", "rpn_nms_thresh"} < set(values)


FIRST = {  # the first parameter that torchvision trains, and how many layers there are
    "fasterrcnn_resnet50_fpn": ("backbone.body.", {5: "conv1.weight", 3: "layer2.0.conv1.weight"}),
    SMALL: ("backbone.body.", {6: "0.0.weight", 2: "13.block.0.0.weight"}),
    "ssd300_vgg16": ("backbone.", {5: "features.0.weight", 4: "features.5.weight", 1: "extra.0.1.weight"}),
    LITE: ("backbone.", {6: "features.0.0.0.weight", 1: "features.1.3.0.weight"}),
}


@pytest.mark.parametrize("name", FIRST)
def test_layers_are_frozen_as_torchvision_counts_them(name: str) -> None:
    prefix, first = FIRST[name]
    for count in (*first, 0):
        frozen = meta(PREFIX + name, trainable_layers=count)
        trained = [key for key, value in frozen.named_parameters() if value.requires_grad and key.startswith(prefix)]
        own = [key for key in trained if "scale_weight" not in key and ".fpn." not in key]
        if count:
            assert own[0] == prefix + first[count]
        else:  # what comes after the classifier's layers is trained
            assert all("extra" in key for key in own)


@pytest.mark.parametrize("name", [SMALL, LITE])
def test_weights_of_a_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, by torchvision's own way: the classifier with weights, cut."""
    values: dict[str, Any] = {"reduced_tail": False} if name == LITE else {}
    classifier = classifier_of(name)
    trained: Any = torchvision_models.get_model(classifier, weights=None)
    for value in trained.parameters():
        value.data.add_(torch.rand(()))
    monkeypatch.setattr("kd_vision.detection.parts.fetch", lambda url, sha256: Path(url))
    monkeypatch.setattr("kd_vision.detection.parts.read_state", lambda path: trained.state_dict())
    weights = next(iter(torchvision_models.get_model_weights(classifier).__members__))
    model = MODELS.get(PREFIX + name)(weights_backbone=weights, num_classes=2, **values)
    own: dict[str, Tensor] = BackboneOrder(model, classifier).body.state_dict()
    theirs = [
        value for key, value in trained.state_dict().items() if key.startswith("features.") and "num_batches" not in key
    ]
    ours = [value for key, value in own.items() if "num_batches" not in key and key != "scale_weight"]
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=False))
    assert len(ours) >= len(theirs)


def test_vggs_weights_come_in_the_detectors_order() -> None:
    model = meta(f"{PREFIX}ssd300_vgg16")
    order = BackboneOrder(model, "vgg16")
    theirs = [value.shape for key, value in order.origin.state_dict().items() if key.startswith("features.")]
    assert [value.shape for key, value in order.body.state_dict().items() if key != "scale_weight"][:26] == theirs


def test_weights_of_a_backbone_of_another_shape_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kd_vision.detection.parts.state_of", lambda backbone, weights: {})
    with pytest.raises(KDError, match=r"do not fit: features\.0\.0\.weight"):
        meta(PREFIX + SMALL, weights_backbone="IMAGENET1K_V1")


OLD = {  # as the files of 2019 to 2022 name them
    "maskrcnn_resnet50_fpn": {
        "backbone.fpn.inner_blocks.2.0.weight": "backbone.fpn.inner_blocks.2.weight",
        "backbone.fpn.layer_blocks.3.0.bias": "backbone.fpn.layer_blocks.3.bias",
        "rpn.head.conv.0.0.weight": "rpn.head.conv.weight",
        "roi_heads.mask_head.1.0.weight": "roi_heads.mask_head.mask_fcn2.weight",
    },
    "retinanet_resnet50_fpn": {
        "head.classification_head.conv.1.0.weight": "head.classification_head.conv.2.weight",
        "head.regression_head.conv.3.0.bias": "head.regression_head.conv.6.bias",
        "backbone.fpn.layer_blocks.0.0.weight": "backbone.fpn.layer_blocks.0.weight",
    },
}


@pytest.mark.parametrize("name", OLD)
def test_old_names_of_published_weights_are_known(name: str) -> None:
    model = meta(PREFIX + name, num_classes=3)
    state = {OLD[name].get(key, key): value for key, value in model.state_dict().items()}
    assert len(state.keys() - model.state_dict().keys()) == len(OLD[name])
    load_state(model, state, "weights")
    load_state(model, model.state_dict(), "weights")
    with pytest.raises(KDError, match="does not fit"):
        load_state(model, {**state, "backbone.fpn.inner_blocks.7.weight": torch.zeros(1)}, "weights")


@pytest.mark.parametrize("name", [name for name in NAMES if "v2" not in name and "320_fpn" not in name])
def test_all_heads_may_go_to_other_classes(name: str) -> None:
    values = {"num_keypoints": 17} if "keypoint" in name else {}
    published = meta(PREFIX + name, **values).state_dict()
    values = {"num_keypoints": 4} if "keypoint" in name else {}
    model = meta(PREFIX + name, num_classes=4, **values)
    with pytest.raises(KDError, match="new_head: true"):
        load_state(model, published, "weights")
    fresh = load_state(model, published, "weights", new_head=True)
    heads = ("cls_score", "bbox_pred", "mask_fcn_logits", "kps_score_lowres", "cls_logits", "module_list")
    assert fresh
    assert all(any(head in path for head in heads) for path in fresh)
    assert not any(path.startswith(("backbone", "rpn")) or "regression" in path for path in fresh)


def test_cards_of_torchvisions_weights() -> None:
    for name in NAMES:
        card = find_card(PREFIX + name, None)[1]
        assert (card.dataset, card.task, card.package) == ("coco2017", "object_detection", "kd-vision")
        assert len(card.sha256 or "") == 8
        assert card.published["ap"] > 20
    assert card_of("maskrcnn_resnet50_fpn").published == {"ap": 37.9, "mask_ap": 34.6}
    keypoints = {"num_classes": 2, "norm": "frozen", "norm_eps": 0.0, "num_keypoints": 17}
    assert card_of("keypointrcnn_resnet50_fpn").parameters == keypoints
    assert card_of("keypointrcnn_resnet50_fpn", "COCO_LEGACY").published["keypoint_ap"] == 61.1
    assert ZOOS.get("torchvision-detection").names() == [PREFIX + name for name in NAMES]
    with pytest.raises(KDError, match="COCO_V1"):
        find_card("torchvision.fcos_resnet50_fpn.COCO_V2", None)
