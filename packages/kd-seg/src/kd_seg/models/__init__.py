"""Segmentation models: torchvision's with published weights, and a U-Net."""

from kd_seg.models import published, unet

__all__ = ["published", "unet"]
