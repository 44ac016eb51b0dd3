"""Where a model comes from: architectures, published weights, hubs, other runs."""

from kd_core.models.registry import MODELS, ZOOS, WeightCard, Zoo

__all__ = ["MODELS", "ZOOS", "WeightCard", "Zoo"]
