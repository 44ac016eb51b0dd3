"""Losses: pure functions of tensors, registered by name. One file per family."""

from kd_core.losses.active import active_features
from kd_core.losses.affinity import affinity, knowledge_adaptation, norm_penalty
from kd_core.losses.anchors import crosskd_boxes, crosskd_classes
from kd_core.losses.attention import attention_kl, attention_mse
from kd_core.losses.boundaries import activation_boundary
from kd_core.losses.channels import ickd, ickd_imagenet
from kd_core.losses.class_attention import class_attention
from kd_core.losses.congruence import cc, cc_kernel
from kd_core.losses.contrastive import CRD
from kd_core.losses.correlation import dist, dist_channel, dist_spatial
from kd_core.losses.crossimage import cirkd_minibatch
from kd_core.losses.curriculum import ctkd
from kd_core.losses.data_free import feature_activation, information_entropy
from kd_core.losses.decoupled import dkd, nkd, rld, wsld
from kd_core.losses.dense import cwd, skd_pairwise
from kd_core.losses.direction import streamlined_direction
from kd_core.losses.distances import crosskd_distances, ld
from kd_core.losses.distributions import jensen_shannon, reverse_kl, soft_cross_entropy, total_variation
from kd_core.losses.ensembles import (
    adaptive_ensemble_kd,
    confidence_weighted_kd,
    confidence_weighted_mse,
    ensemble_kd,
    entropy_weighted_kd,
    mutual,
)
from kd_core.losses.factors import factor_transfer
from kd_core.losses.features import attention_transfer, cosine, hint, l1, mse, smooth_l1, squared_error
from kd_core.losses.flow import fsp
from kd_core.losses.foreground import fgd
from kd_core.losses.hidden import hidden_mse, patience
from kd_core.losses.logits import cross_entropy, kd, multilabel_kd
from kd_core.losses.many_to_one import many_to_one
from kd_core.losses.masked import mgd
from kd_core.losses.mixtures import ab_divergence, skewed_kl, skewed_reverse_kl, ttm, wttm
from kd_core.losses.multilevel import mlkd_batch, mlkd_class, mlkd_instance
from kd_core.losses.one_for_all import ofa
from kd_core.losses.outputs import identity
from kd_core.losses.partial import partial_l2
from kd_core.losses.pearson import pkd
from kd_core.losses.pixel_memory import PixelMemory
from kd_core.losses.reduction import mean_over, mean_over_samples, over_batch
from kd_core.losses.regions import ifvd
from kd_core.losses.registry import LOSSES, Loss, LossSignature, loss_signature
from kd_core.losses.relations import pkt, rkd_angle, rkd_distance, similarity_preserving
from kd_core.losses.review import hierarchical_context
from kd_core.losses.scales import sdd_dkd, sdd_kd
from kd_core.losses.selectivity import nst
from kd_core.losses.self_supervised import self_supervised_kd, transformed_kd, view_contrast
from kd_core.losses.semantic import SemCKD
from kd_core.losses.singular import kdsvd
from kd_core.losses.standardized import srd
from kd_core.losses.teacher_free import tf_kd, uskd
from kd_core.losses.tensors import same_rows, same_shape
from kd_core.losses.variational import VID, pad_l2
from kd_core.losses.wasserstein import wasserstein_features, wasserstein_logits

__all__ = [
    "CRD",
    "LOSSES",
    "VID",
    "Loss",
    "LossSignature",
    "PixelMemory",
    "SemCKD",
    "ab_divergence",
    "activation_boundary",
    "active_features",
    "adaptive_ensemble_kd",
    "affinity",
    "attention_kl",
    "attention_mse",
    "attention_transfer",
    "cc",
    "cc_kernel",
    "cirkd_minibatch",
    "class_attention",
    "confidence_weighted_kd",
    "confidence_weighted_mse",
    "cosine",
    "cross_entropy",
    "crosskd_boxes",
    "crosskd_classes",
    "crosskd_distances",
    "ctkd",
    "cwd",
    "dist",
    "dist_channel",
    "dist_spatial",
    "dkd",
    "ensemble_kd",
    "entropy_weighted_kd",
    "factor_transfer",
    "feature_activation",
    "fgd",
    "fsp",
    "hidden_mse",
    "hierarchical_context",
    "hint",
    "ickd",
    "ickd_imagenet",
    "identity",
    "ifvd",
    "information_entropy",
    "jensen_shannon",
    "kd",
    "kdsvd",
    "knowledge_adaptation",
    "l1",
    "ld",
    "loss_signature",
    "many_to_one",
    "mean_over",
    "mean_over_samples",
    "mgd",
    "mlkd_batch",
    "mlkd_class",
    "mlkd_instance",
    "mse",
    "multilabel_kd",
    "mutual",
    "nkd",
    "norm_penalty",
    "nst",
    "ofa",
    "over_batch",
    "pad_l2",
    "partial_l2",
    "patience",
    "pkd",
    "pkt",
    "reverse_kl",
    "rkd_angle",
    "rkd_distance",
    "rld",
    "same_rows",
    "same_shape",
    "sdd_dkd",
    "sdd_kd",
    "self_supervised_kd",
    "similarity_preserving",
    "skd_pairwise",
    "skewed_kl",
    "skewed_reverse_kl",
    "smooth_l1",
    "soft_cross_entropy",
    "squared_error",
    "srd",
    "streamlined_direction",
    "tf_kd",
    "total_variation",
    "transformed_kd",
    "ttm",
    "uskd",
    "view_contrast",
    "wasserstein_features",
    "wasserstein_logits",
    "wsld",
    "wttm",
]
