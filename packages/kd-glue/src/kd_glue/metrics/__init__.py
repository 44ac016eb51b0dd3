"""What predictions of texts' classes and scores are worth: GLUE's metrics, and those of other data."""

from kd_glue.metrics.accumulate import GlueMetrics
from kd_glue.metrics.measures import MODULE

__all__ = ["MODULE", "GlueMetrics"]
