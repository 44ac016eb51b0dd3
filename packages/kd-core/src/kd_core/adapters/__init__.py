"""Small trainable modules between a tap and a loss, their widths read off a probe batch. One file per family."""

from kd_core.adapters.connectors import channel_embedding, connector
from kd_core.adapters.factors import paraphraser, translator
from kd_core.adapters.heads import SimKDProjector, embedding, projection_head, simkd_projector
from kd_core.adapters.masked import generation
from kd_core.adapters.projector import projector
from kd_core.adapters.registry import ADAPTERS, Adapter, validate_adapter
from kd_core.adapters.review import fusion, review

__all__ = [
    "ADAPTERS",
    "Adapter",
    "SimKDProjector",
    "channel_embedding",
    "connector",
    "embedding",
    "fusion",
    "generation",
    "paraphraser",
    "projection_head",
    "projector",
    "review",
    "simkd_projector",
    "translator",
    "validate_adapter",
]
