"""Losses: pure functions of tensors, registered by name. One file per family."""

from kd_core.losses.features import attention_transfer, cosine, hint, l1, mse, smooth_l1
from kd_core.losses.logits import cross_entropy, kd, multilabel_kd
from kd_core.losses.registry import LOSSES, Loss, LossSignature, signature
from kd_core.losses.relations import pkt, rkd_angle, rkd_distance, similarity_preserving
from kd_core.losses.tensors import same_rows, same_shape

__all__ = [
    "LOSSES",
    "Loss",
    "LossSignature",
    "attention_transfer",
    "cosine",
    "cross_entropy",
    "hint",
    "kd",
    "l1",
    "mse",
    "multilabel_kd",
    "pkt",
    "rkd_angle",
    "rkd_distance",
    "same_rows",
    "same_shape",
    "signature",
    "similarity_preserving",
    "smooth_l1",
]
