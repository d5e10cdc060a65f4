"""A loader's batches on the device that trains on them; on a GPU one step ahead, on a stream of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import torch

from raypose.data.loader import TrainLoader
from raypose.data.source_batch import Source, SourceBatch
from raypose.data.threads import map_in_threads
from raypose.model import targets_from_batch
from raypose.structures import Batch
from raypose.vision.device_augment import draw_batch
from raypose.vision.device_decode import decode_jpegs


@dataclass(frozen=True, slots=True)
class DeviceBatch:
    """Images and targets as the loss takes them, on the device."""

    targets: dict[str, torch.Tensor]
    ids: tuple[str, ...]


class Feed:
    """Moves the batches of a loader to a device, and draws them there where the loader hands over their sources."""

    def __init__(self, loader: TrainLoader, device: str, imgsz: int) -> None:
        self._loader = loader
        self._device = torch.device(device)
        self._imgsz = imgsz

    @property
    def images_read(self) -> int:
        return self._loader.images_read

    @property
    def bad_images(self) -> int:
        return self._loader.bad_images

    def __iter__(self) -> Iterator[tuple[DeviceBatch, ...]]:
        if self._device.type != "cuda":
            for batches in self._loader:
                yield tuple(map(self._on_device, batches))
            return
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]

        def ahead(batches: tuple[Batch | SourceBatch, ...]) -> tuple[tuple[DeviceBatch, ...], torch.cuda.Event]:
            with torch.cuda.stream(stream):
                moved = tuple(map(self._on_device, batches))
                return moved, stream.record_event()

        with closing(map_in_threads(ahead, self._loader, threads=1, ahead=1)) as moving:
            for moved, is_there in moving:
                current = torch.cuda.current_stream(self._device)
                current.wait_event(is_there)
                for tensor in (tensor for batch in moved for tensor in batch.targets.values()):
                    tensor.record_stream(current)  # its memory is not the other stream's before this one is done
                yield moved

    def _on_device(self, batch: Batch | SourceBatch) -> DeviceBatch:
        if isinstance(batch, Batch):
            return DeviceBatch(targets_from_batch(batch, self._device), batch.ids)
        try:
            images = self._images_of(batch)
        except torch.OutOfMemoryError:
            raise  # says nothing about the files, whose pixels would differ a little if others decoded them
        except RuntimeError:
            # One file that the device cannot read spoils the call for all; what is wrong, if anything, is found here.
            batch = self._loader.made_of_pixels(batch.number)
            images = self._images_of(batch)
        targets = targets_from_batch(batch.labels, self._device)
        drawn = draw_batch(images, batch.table, self._imgsz)
        return DeviceBatch({**targets, "img": drawn.float().div_(255)}, batch.labels.ids)

    def _images_of(self, batch: SourceBatch) -> list[torch.Tensor]:
        content = torch.from_numpy(batch.content)
        files = [content[source.offset : source.offset + source.size] for source in batch.sources if source.is_jpeg]
        decoded = iter(decode_jpegs(files, self._device) if files else ())
        # Files are read in host memory, and only where there are pixels do they travel.
        there = content if len(files) == len(batch.sources) else content.to(self._device, non_blocking=True)
        return [next(decoded) if source.is_jpeg else _pixels(there, source) for source in batch.sources]


def _pixels(content: torch.Tensor, source: Source) -> torch.Tensor:
    return content[source.offset : source.offset + source.size].view(3, source.height, source.width)
