"""Image tasks: data, augmentation, metrics, models."""
