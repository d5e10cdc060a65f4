"""The pixels of a part, read and decoded ahead in threads: a store takes its time for each image, however small."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from raypose.batch.plan import Part
from raypose.data.shard_set import ShardSet
from raypose.data.threads import map_in_threads
from raypose.errors import DataError, StorageError, StorageUnavailableError
from raypose.storage import is_remote, open_store
from raypose.structures import ImageArray
from raypose.vision.decode import decode_rgb
from raypose.vision.video import VideoFile

K = TypeVar("K")
T = TypeVar("T")

_READERS = 8
_AHEAD = 16
_VIDEO_THREADS = 2
_KEPT_BYTES = 12 * 2**20
"""Of an image: four megapixels."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One RGB image. `name` is its path below the root, or its id in a shard set; `number` counts a video's frames."""

    name: str
    image_HW3: ImageArray
    number: int | None = None
    encoded: bytes | None = None
    """What it was decoded from, where that is a file of its own."""

    def pixels_later(self) -> Callable[[], ImageArray]:
        """The same pixels whenever they are asked for. Those of a large picture are decoded anew: there may be dozens
        at a time, and in its file it takes a tenth of the room."""
        encoded, image_HW3, name = self.encoded, self.image_HW3, self.name
        if encoded is None or image_HW3.size <= _KEPT_BYTES:
            return lambda: image_HW3
        return lambda: decode_rgb(encoded, name)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Something that gave no image, and why."""

    name: str
    error: str


class Reader:
    """Reads parts of what lies at `root`, in any process. An image that is bad gives an Unreadable in its place."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._store = open_store(root)
        self._shards: ShardSet | None = None

    @contextmanager
    def video(self, part: Part) -> Iterator[VideoFile]:
        """The video of a part as a local file, which goes with the block; DataError where it is none."""
        where = self._store.place(part.video)
        if not is_remote(self._root):
            yield VideoFile.open(Path(where), where)
            return
        with tempfile.TemporaryDirectory(prefix="raypose-video-") as folder:
            local = Path(folder, Path(part.video).name)
            self._store.download(part.video, local)
            yield VideoFile.open(local, where)

    def images(self, part: Part, then: Callable[[Frame], T]) -> Generator[T | Unreadable]:
        """`then` of each image of a part, in order, called in the thread that decoded it."""
        if part.images:
            return map_in_threads(_attempt(self._read, then), part.images, threads=_READERS, ahead=_AHEAD)
        self._shards = self._shards or ShardSet.open(self._root)
        places = range(part.start, part.stop)
        return map_in_threads(_attempt(self._sample, then), places, threads=_READERS, ahead=_AHEAD)

    def frames(self, part: Part, video: VideoFile, then: Callable[[Frame], T]) -> Generator[T | Unreadable]:
        """`then` of each frame, and an Unreadable at the end of a video that breaks off."""
        count = 0
        frames = (Frame(part.video, image_HW3, number) for number, image_HW3 in enumerate(video.frames()))
        with closing(map_in_threads(then, frames, threads=_VIDEO_THREADS, ahead=_AHEAD)) as made:
            for item in made:
                yield item
                count += 1
        try:
            video.require_whole(count, self._store.place(part.video))
        except DataError as error:
            yield Unreadable(part.video, str(error))

    def _read(self, name: str) -> Frame | Unreadable:
        return _decoded(name, self._store.read(name), self._store.place(name))

    def _sample(self, place: int) -> Frame | Unreadable:
        assert self._shards is not None
        sample = self._shards.sample(*self._shards.locate(place))
        return _decoded(sample.id, sample.image, f"{self._shards.url}, sample {sample.id!r}")


def _decoded(name: str, content: bytes, where: str) -> Frame | Unreadable:
    try:
        return Frame(name, decode_rgb(content, where), encoded=content)
    except DataError as error:
        return Unreadable(name, str(error))


def _attempt(read: Callable[[K], Frame | Unreadable], then: Callable[[Frame], T]) -> Callable[[K], T | Unreadable]:
    """What is wrong with one image is its own; a store that does not answer concerns all."""

    def work(key: K) -> T | Unreadable:
        try:
            item = read(key)
        except StorageUnavailableError:
            raise
        except (DataError, StorageError) as error:
            return Unreadable(str(key), str(error))
        return item if isinstance(item, Unreadable) else then(item)

    return work
