"""Small trainable modules between a tap and a loss, their widths read off a probe batch. One file per family."""

from kd_core.adapters.anchors import anchor_rows, decoded_boxes, matched_anchors
from kd_core.adapters.atss import atss_anchors
from kd_core.adapters.boxes import boxes_on_maps
from kd_core.adapters.branches import byot_branch, ofa_branch
from kd_core.adapters.centred import centred_anchors
from kd_core.adapters.class_maps import class_maps
from kd_core.adapters.connectors import channel_embedding, connector
from kd_core.adapters.context import global_context
from kd_core.adapters.diffusion import denoiser
from kd_core.adapters.ensembles import gate, teacher_embeddings
from kd_core.adapters.expansion import FeatureExpansion, feature_expansion
from kd_core.adapters.factors import paraphraser, translator
from kd_core.adapters.generator import image_generator
from kd_core.adapters.heads import SimKDProjector, embedding, pool, projection_head, simkd_projector
from kd_core.adapters.importance import confidence, valuable_region
from kd_core.adapters.logits import hard_labels, learned_number, pooled_classifier, region_pool
from kd_core.adapters.margin import margin_relu
from kd_core.adapters.masked import generation
from kd_core.adapters.orthogonal import orthogonal_projector, standardize
from kd_core.adapters.projector import projector
from kd_core.adapters.registry import ADAPTERS, Adapter, shaped, validate_adapter
from kd_core.adapters.review import fusion, review
from kd_core.adapters.statistics import matched_statistics
from kd_core.adapters.tokens import TokenMap, token_map

__all__ = [
    "ADAPTERS",
    "Adapter",
    "FeatureExpansion",
    "SimKDProjector",
    "TokenMap",
    "anchor_rows",
    "atss_anchors",
    "boxes_on_maps",
    "byot_branch",
    "centred_anchors",
    "channel_embedding",
    "class_maps",
    "confidence",
    "connector",
    "decoded_boxes",
    "denoiser",
    "embedding",
    "feature_expansion",
    "fusion",
    "gate",
    "generation",
    "global_context",
    "hard_labels",
    "image_generator",
    "learned_number",
    "margin_relu",
    "matched_anchors",
    "matched_statistics",
    "ofa_branch",
    "orthogonal_projector",
    "paraphraser",
    "pool",
    "pooled_classifier",
    "projection_head",
    "projector",
    "region_pool",
    "review",
    "shaped",
    "simkd_projector",
    "standardize",
    "teacher_embeddings",
    "token_map",
    "translator",
    "validate_adapter",
    "valuable_region",
]
