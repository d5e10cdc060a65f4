"""raypose: distributed YOLO pose training on Ray."""
