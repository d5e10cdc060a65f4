"""Label formats, each read into a LabelledSource: raypose's own folder, data sets of others, labelling tools."""

from raypose.data.importers.source import LabelledSource, SourceImage, source_of

__all__ = ["LabelledSource", "SourceImage", "source_of"]
