"""Predictions, pictures and reports."""
