"""Label formats, each read into a LabelledSource: folders of pickles, data sets of others, exports of labelling tools."""

from raypose.data.importers.source import LabelledSource, SourceImage, source_of

__all__ = ["LabelledSource", "SourceImage", "source_of"]
