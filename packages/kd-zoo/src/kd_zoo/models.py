"""Imported to register every model of the zoo."""

from kd_zoo.bottleneck import FourGroupResNet
from kd_zoo.densenet import DenseNet
from kd_zoo.mobile import CifarMobileNetV2, CifarShuffleNetV1, CifarShuffleNetV2
from kd_zoo.mobilenetv1 import MobileNetV1
from kd_zoo.resnet import CifarResNet
from kd_zoo.vgg import CifarVGG
from kd_zoo.wrn import BenchmarkWideResNet, WideResNet

__all__ = [
    "BenchmarkWideResNet",
    "CifarMobileNetV2",
    "CifarResNet",
    "CifarShuffleNetV1",
    "CifarShuffleNetV2",
    "CifarVGG",
    "DenseNet",
    "FourGroupResNet",
    "MobileNetV1",
    "WideResNet",
]
