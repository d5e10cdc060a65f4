"""Shard sets written in the formats of others: COCO JSON and Ultralytics YOLO-txt."""
