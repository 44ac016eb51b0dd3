"""What object detection trains on and is scored on: images, boxes, and how they are read."""
