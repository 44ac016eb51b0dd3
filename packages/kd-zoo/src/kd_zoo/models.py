"""Imported to register every model of the zoo."""

from kd_zoo.densenet import DenseNet
from kd_zoo.resnet import CifarResNet
from kd_zoo.wrn import WideResNet

__all__ = ["CifarResNet", "DenseNet", "WideResNet"]
