"""Images with boxes, masks and keypoints: how they are read, transformed and batched."""
