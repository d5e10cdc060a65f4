"""A batch whose pictures a device is to draw: their sources, how to sample them, and the targets of what is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from raypose.structures import Batch, ImageArray
from raypose.vision.device_table import SamplingTable

Allocate = Callable[[int], ImageArray]
"""So many bytes to write to: pinned, or shared with another process, or plain."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where in the content of its batch an image is: as a JPEG file, or as its pixels, 3HW RGB."""

    offset: int
    size: int
    width: int
    height: int
    is_jpeg: bool


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """Batch `number` of a loader, its pictures still to be drawn."""

    number: int
    labels: Batch
    """The batch without its images."""
    sources: tuple[Source, ...]
    table: SamplingTable
    content: ImageArray
    """All sources in one piece, which is one copy to a device."""

    def __len__(self) -> int:
        return len(self.labels.ids)


def gather(contents: Sequence[bytes | ImageArray], allocate: Allocate) -> tuple[tuple[Source, ...], ImageArray]:
    """Files and HW3 images one after another in one piece of memory."""
    sources, offset = [], 0
    for content in contents:
        if isinstance(content, bytes):
            sources.append(Source(offset, len(content), 0, 0, is_jpeg=True))
        else:
            sources.append(Source(offset, content.size, content.shape[1], content.shape[0], is_jpeg=False))
        offset += sources[-1].size
    memory = allocate(offset)
    for content, source in zip(contents, sources, strict=True):
        place = memory[source.offset : source.offset + source.size]
        if isinstance(content, bytes):
            place[:] = np.frombuffer(content, np.uint8)
        else:
            cv2.split(content, list(place.reshape(3, source.height, source.width)))
    return tuple(sources), memory
