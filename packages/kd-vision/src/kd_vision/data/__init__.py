"""Images: data sets, subsets, augmentation, loading."""
