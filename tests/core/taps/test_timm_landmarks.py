"""Landmarks of timm's models: what their ``feature_info`` names, and what is told of their classifiers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from kd_core.taps.inference import infer_landmarks
from kd_core.taps.landmarks import keep
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper

timm = pytest.importorskip("timm")
Shapes = list[tuple[int, ...]]


def captured(name: str, **arguments: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A model of ten classes on the meta device, and what its landmarks are for two images."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=10, **arguments).eval()
        images = torch.zeros(2, *model.pretrained_cfg.get("input_size", (3, 224, 224)))
    landmarks = infer_landmarks(model, lambda model, images: model(images), images)
    keep(model, landmarks)
    marks = ["@features", "@penultimate", "@classifier", *(["@last_map"] if landmarks.last_map else [])]
    wrapper = ForwardWrapper(model, [Tap(mark) for mark in marks])
    with torch.no_grad():
        at = wrapper(images).at
    wrapper.release()
    return model, {mark: at[Tap(mark)] for mark in marks}


def check(name: str, features: Shapes, width: int, classifier: str, last_map: tuple[int, ...] | None) -> None:
    """The landmarks of a model: shapes of features and last map without that of the batch, width of the penultimate."""
    model, at = captured(name)
    assert [tuple(value.shape[1:]) for value in at["@features"]] == features
    assert at["@penultimate"].flatten(1).shape == (2, width)
    assert at["@classifier"].flatten(1).shape == (2, 10)
    assert model.__dict__["_kd_landmarks"].classifier == classifier
    assert (tuple(at["@last_map"].shape[1:]) if "@last_map" in at else None) == last_map


@pytest.mark.parametrize(
    ("name", "features", "width", "classifier", "last_map"),
    [
        ("test_resnet", [(32, 40, 40), (48, 20, 20), (192, 10, 10), (96, 5, 5)], 96, "fc", (96, 5, 5)),
        ("test_vit", [(101, 64)] * 6, 64, "head", None),
        ("test_convnext", [(24, 40, 40), (32, 20, 20), (48, 10, 10), (64, 5, 5)], 64, "head.fc", None),
    ],
)
def test_small_models(name: str, features: Shapes, width: int, classifier: str, last_map: Any) -> None:
    check(name, features, width, classifier, last_map)


def pyramid(*widths: int, size: int = 56) -> Shapes:
    """The shapes of feature maps from a quarter of the image on, each of half the resolution before it."""
    return [(width, size >> stage, size >> stage) for stage, width in enumerate(widths)]


FAMILIES: list[tuple[str, Shapes, int, str, tuple[int, ...] | None]] = [
    ("resnet18", pyramid(64, 128, 256, 512), 512, "fc", (512, 7, 7)),
    ("resnext50_32x4d", pyramid(256, 512, 1024, 2048), 2048, "fc", (2048, 7, 7)),
    ("res2net50_26w_4s", pyramid(256, 512, 1024, 2048), 2048, "fc", (2048, 7, 7)),
    ("regnety_002", pyramid(24, 56, 152, 368), 368, "head.fc", (368, 7, 7)),
    ("mobilenetv2_050", pyramid(16, 16, 48, 160), 1280, "classifier", (1280, 7, 7)),
    ("mobilenetv3_small_050", pyramid(8, 16, 24, 288), 1024, "classifier", None),
    ("efficientnet_b0", pyramid(24, 40, 112, 320), 1280, "classifier", (1280, 7, 7)),
    ("ghostnet_100", pyramid(24, 40, 80, 160), 1280, "classifier", None),
    ("convnext_atto", pyramid(40, 80, 160, 320), 320, "head.fc", None),
    ("densenet121", pyramid(256, 512, 1024, 1024), 1024, "classifier", (1024, 7, 7)),
    ("vgg11_bn", [(256, 56, 56), (512, 28, 28), (512, 14, 14), (512, 7, 7)], 4096, "head.fc", None),
    ("dla34", pyramid(64, 128, 256, 512), 512, "fc", (512, 7, 7)),
    ("dpn48b", pyramid(144, 320, 512, 832), 832, "classifier", (832, 7, 7)),
    ("repvgg_a0", pyramid(48, 96, 192, 1280), 1280, "head.fc", (1280, 7, 7)),
    ("nfnet_l0", pyramid(256, 512, 1536, 2304), 2304, "head.fc", (2304, 7, 7)),
    ("cspresnet50", pyramid(128, 256, 512, 1024, size=64), 1024, "head.fc", (1024, 8, 8)),
    ("inception_v3", [(192, 71, 71), (288, 35, 35), (768, 17, 17), (2048, 8, 8)], 2048, "fc", (2048, 8, 8)),
    ("xception41", [(256, 75, 75), (728, 38, 38), (1024, 19, 19), (2048, 10, 10)], 2048, "head.fc", (2048, 10, 10)),
    ("poolformer_s12", pyramid(64, 128, 320, 512), 512, "head.fc", None),
    ("fastvit_t8", pyramid(48, 96, 192, 384, size=64), 768, "head.fc", (768, 8, 8)),
    ("pvt_v2_b0", pyramid(32, 64, 160, 256), 256, "head", (256, 7, 7)),
    ("swin_tiny_patch4_window7_224", pyramid(96, 192, 384, 768), 768, "head.fc", None),
    ("mambaout_femto", pyramid(48, 96, 192, 288), 1152, "head.fc", None),
    ("levit_128s", [(196, 128), (49, 256), (16, 384)], 384, "head.linear", None),
    ("efficientformer_l1", [*pyramid(48, 96, 224), (49, 448)], 448, "head", None),
    ("vit_tiny_patch16_224", [(197, 192)] * 12, 192, "head", None),
    ("deit_tiny_distilled_patch16_224", [(198, 192)] * 12, 192, "head", None),
    ("mixer_s16_224", [(196, 512)] * 8, 512, "head", None),
    ("xcit_nano_12_p16_224", [(196, 128)] * 12, 128, "head", None),
    ("volo_d1_224", [(192, 28, 28), *[(384, 14, 14)] * 3], 384, "head", None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "features", "width", "classifier", "last_map"), FAMILIES)
def test_families(name: str, features: Shapes, width: int, classifier: str, last_map: Any) -> None:
    check(name, features, width, classifier, last_map)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_the_last_map_has_the_means_that_the_classifier_takes(name: str) -> None:
    model = timm.create_model(name, num_classes=10).eval()
    images = torch.randn(2, 3, 64, 64)
    keep(model, infer_landmarks(model, lambda model, images: model(images), images))
    wrapper = ForwardWrapper(model, [Tap("@last_map"), Tap("@penultimate")])
    with torch.no_grad():
        at = wrapper(images).at
    torch.testing.assert_close(at[Tap("@last_map")].mean((2, 3)), at[Tap("@penultimate")])


@pytest.mark.parametrize("side", [8, 32, 64])
def test_small_images_leave_a_last_map_of_one_position(side: int) -> None:
    model = torchvision.models.resnet18(num_classes=10).eval()
    found = infer_landmarks(model, lambda model, images: model(images), torch.rand(2, 3, side, side))
    assert found.last_map == Tap("layer4")


def test_maps_with_the_channels_last_come_with_the_channels_first() -> None:
    class Stage(nn.Linear):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images[:, ::2, ::2])

    class Model(nn.Module):
        feature_info = [  # noqa: RUF012
            {"module": "first", "num_chs": 5, "reduction": 4},
            {"module": "second", "num_chs": 6, "reduction": 8},
        ]

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = Stage(3, 5), Stage(5, 6), nn.Linear(6, 10)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.second(self.first(images.permute(0, 2, 3, 1))).mean((1, 2)))

    model, images = Model(), torch.randn(2, 3, 8, 8)
    keep(model, infer_landmarks(model, lambda model, images: model(images), images))
    at = ForwardWrapper(model, [Tap("@features"), Tap("second")])(images).at
    assert [tuple(value.shape) for value in at[Tap("@features")]] == [(2, 5, 4, 4), (2, 6, 2, 2)]
    assert torch.equal(at[Tap("@features")][1], at[Tap("second")].permute(0, 3, 1, 2))


def test_attention_of_timm() -> None:
    model = timm.create_model("test_vit", num_classes=10).eval()
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    images = torch.randn(2, 3, 160, 160)
    keep(model, infer_landmarks(model, lambda model, images: model(images), images))
    with torch.no_grad():
        at = ForwardWrapper(model, [Tap("@attentions/1")])(images).at
    assert at[Tap("@attentions/1")].shape == (2, model.blocks[1].attn.num_heads, 101, 101)
    torch.testing.assert_close(at[Tap("@attentions/1")].sum(-1), torch.ones(2, model.blocks[1].attn.num_heads, 101))
