"""Semantic segmentation: data, augmentation, metrics, models, pictures."""
