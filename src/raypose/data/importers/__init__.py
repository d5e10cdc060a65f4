"""Foreign label formats, each read into a LabelledSource: folders with pickles, COCO JSON, Ultralytics YOLO-txt."""

from raypose.data.importers.source import LabelledSource, SourceImage, source_of

__all__ = ["LabelledSource", "SourceImage", "source_of"]
