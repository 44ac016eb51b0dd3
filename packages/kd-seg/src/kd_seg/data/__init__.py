"""Images and masks: data sets, subsets, transforms, loading."""
