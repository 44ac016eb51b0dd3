"""Runs as one HTML page: curves, classes, the worst samples, and what the runs were made from."""
