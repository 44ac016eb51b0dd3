"""GLUE and text classification: data, metrics and the command ``kd-glue``."""
