"""Foreign label formats, each read into a LabelledSource: folders with pickles, COCO JSON, Ultralytics YOLO-txt."""

from raypose.data.importers.source import LabelledSource

__all__ = ["LabelledSource"]
