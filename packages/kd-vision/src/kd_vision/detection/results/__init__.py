"""What detectors see: pictures, COCO's result files and reports."""
