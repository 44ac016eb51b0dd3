"""Metrics of predicted classes and scores of texts: GLUE's, and those of other data."""

from kd_glue.metrics.accumulate import GlueMetrics
from kd_glue.metrics.measures import MODULE

__all__ = ["MODULE", "GlueMetrics"]
