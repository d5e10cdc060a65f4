"""Samples one after another with their decoded images: for validation, pictures and every other reading in order."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from raypose.data.shard_set import ShardSet
from raypose.data.threads import map_in_threads
from raypose.structures import ImageArray, Sample
from raypose.vision.decode import decode_rgb

THREADS = 2
IMAGES_AHEAD = 32


def read_images(
    shards: ShardSet, places: Sequence[int], *, threads: int = THREADS, ahead: int = IMAGES_AHEAD
) -> Generator[tuple[Sample, ImageArray]]:
    """The samples at these places of the set, in order, each with its HW3 RGB image at full size.

    Up to `ahead` images are decoded in threads before they are asked for. Raises DataError that names the shard and the
    sample whose image does not decode.
    """

    def read(place: int) -> tuple[Sample, ImageArray]:
        shard, index = shards.locate(place)
        sample = shards.sample(shard, index)
        return sample, decode_rgb(sample.image, f"{shards.manifest.shards[shard].name}, sample {sample.id!r}")

    def upcoming(position: int) -> Iterator[int]:
        return (shards.locate(place)[0] for place in places[position:])

    with (
        shards.reading_ahead(upcoming) as move_on,
        closing(map_in_threads(read, places, threads=threads, ahead=ahead)) as images,
    ):
        for position in range(len(places)):
            move_on(position)
            yield next(images)
