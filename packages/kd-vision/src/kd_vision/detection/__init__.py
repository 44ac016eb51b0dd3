"""Object detection, and instance segmentation and keypoints with it."""
