"""Object detection: the second task of kd-vision."""
