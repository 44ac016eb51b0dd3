"""Losses: pure functions of tensors, registered by name. One file per family."""

from kd_core.losses.active import active_features
from kd_core.losses.affinity import affinity, knowledge_adaptation, norm_penalty
from kd_core.losses.attention import attention_kl, attention_mse
from kd_core.losses.boundaries import activation_boundary
from kd_core.losses.channels import ickd, ickd_imagenet
from kd_core.losses.congruence import cc, cc_kernel
from kd_core.losses.contrastive import CRD
from kd_core.losses.correlation import dist
from kd_core.losses.crossimage import cirkd_minibatch
from kd_core.losses.dense import cwd, skd_pairwise
from kd_core.losses.direction import streamlined_direction
from kd_core.losses.distributions import jensen_shannon, reverse_kl, soft_cross_entropy, total_variation
from kd_core.losses.factors import factor_transfer
from kd_core.losses.features import attention_transfer, cosine, hint, l1, mse, smooth_l1
from kd_core.losses.flow import fsp
from kd_core.losses.hidden import hidden_mse, patience
from kd_core.losses.logits import cross_entropy, kd, multilabel_kd
from kd_core.losses.many_to_one import many_to_one
from kd_core.losses.masked import mgd
from kd_core.losses.one_for_all import ofa
from kd_core.losses.outputs import identity
from kd_core.losses.pixel_memory import PixelMemory
from kd_core.losses.reduction import mean_over, mean_over_samples, over_batch
from kd_core.losses.regions import ifvd
from kd_core.losses.registry import LOSSES, Loss, LossSignature, loss_signature
from kd_core.losses.relations import pkt, rkd_angle, rkd_distance, similarity_preserving
from kd_core.losses.review import hierarchical_context
from kd_core.losses.self_supervised import self_supervised_kd, transformed_kd, view_contrast
from kd_core.losses.standardized import srd
from kd_core.losses.tensors import same_rows, same_shape
from kd_core.losses.variational import VID, pad_l2

__all__ = [
    "CRD",
    "LOSSES",
    "VID",
    "Loss",
    "LossSignature",
    "PixelMemory",
    "activation_boundary",
    "active_features",
    "affinity",
    "attention_kl",
    "attention_mse",
    "attention_transfer",
    "cc",
    "cc_kernel",
    "cirkd_minibatch",
    "cosine",
    "cross_entropy",
    "cwd",
    "dist",
    "factor_transfer",
    "fsp",
    "hidden_mse",
    "hierarchical_context",
    "hint",
    "ickd",
    "ickd_imagenet",
    "identity",
    "ifvd",
    "jensen_shannon",
    "kd",
    "knowledge_adaptation",
    "l1",
    "loss_signature",
    "many_to_one",
    "mean_over",
    "mean_over_samples",
    "mgd",
    "mse",
    "multilabel_kd",
    "norm_penalty",
    "ofa",
    "over_batch",
    "pad_l2",
    "patience",
    "pkt",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "same_rows",
    "same_shape",
    "self_supervised_kd",
    "similarity_preserving",
    "skd_pairwise",
    "smooth_l1",
    "soft_cross_entropy",
    "srd",
    "streamlined_direction",
    "total_variation",
    "transformed_kd",
    "view_contrast",
]
