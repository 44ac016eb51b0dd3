"""Predictions and submissions."""
