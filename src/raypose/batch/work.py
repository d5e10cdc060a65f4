"""One part of a plan: read, predicted on all lanes, and published once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from operator import itemgetter
from typing import Protocol, Self

from raypose.batch.pictures import Drawing, JpegDrawing, NoDrawing, Pen, VideoDrawing
from raypose.batch.plan import PICTURES_FOLDER, Part, Plan
from raypose.batch.reading import Frame, Reader, Unreadable
from raypose.batch.results import Found, Tally, encode, read_tally
from raypose.data.threads import map_in_threads
from raypose.errors import DataError, StorageError, StorageUnavailableError
from raypose.inference import Fitted, Lanes
from raypose.model import Tracker, poses_above
from raypose.storage import ObjectStore
from raypose.structures import ImageArray, IntArray, Poses, Skeleton

_MOST_WAITING = 32
"""Images that wait for others of their shape; then those of the most frequent shape go."""


class _Spec(Protocol):
    @property
    def skeleton(self) -> Skeleton: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...


class PosePredictor(Protocol):
    """What prediction needs of `raypose.inference.Predictor`."""

    @property
    def spec(self) -> _Spec: ...

    @property
    def lanes(self) -> int: ...

    def twin(self) -> Self: ...

    def fit(self, image: ImageArray, where: str) -> Fitted: ...

    def predict_fitted(self, images: Sequence[Fitted]) -> list[Poses]: ...


@dataclass(frozen=True, slots=True)
class _Ready:
    """An image as the model takes it; its own pixels, when they are asked for, only where they are to be drawn on."""

    name: str
    number: int | None
    width: int
    height: int
    fitted: Fitted
    pixels: Callable[[], ImageArray] | None


class PartWork:
    """Predicts parts, `batch` images at a time; several threads may do one each, and share the lanes.

    `on_images` hears of images and frames as they are predicted. While lanes compute, other threads read and draw.
    """

    def __init__(
        self,
        plan: Plan,
        out: ObjectStore,
        predictor: PosePredictor,
        lanes: Lanes[PosePredictor],
        *,
        batch: int,
        on_images: Callable[[int], None] | None = None,
    ) -> None:
        self._plan = plan
        self._settings = plan.settings
        self._out = out
        self._predictor = predictor
        self._lanes = lanes
        self._lane_count = predictor.lanes  # now: PyTorch counts threads anew in each thread that brings a part
        self._batch = batch
        self._on_images = on_images or (lambda images: None)
        self._reader = Reader(plan.root)
        self._pen = Pen(predictor.spec.skeleton, plan.settings.text)

    def __call__(self, part: Part) -> Tally:
        """Raises RayposeError where the part cannot be done; a bad image is no such thing, but counted."""
        key, kind = self._plan.key_of(part), self._settings.format
        if self._out.exists(key):  # whoever did it did not live to tell
            return read_tally(self._out.read(key), kind)
        found = self._video(part) if part.video else self._images(part)
        spec = self._predictor.spec
        if self._out.write_new(key, encode(found, spec.skeleton, spec.class_names, kind)):
            return Tally.of(found)
        return read_tally(self._out.read(key), kind)

    def _images(self, part: Part) -> list[Found]:
        pictures = self._out.child(PICTURES_FOLDER)
        drawing = JpegDrawing(pictures, self._pen) if self._settings.pictures else NoDrawing()
        with closing(self._reader.images(part, self._prepare)) as items:
            return self._in_order(items, drawing, None)

    def _video(self, part: Part) -> list[Found]:
        with ExitStack() as stack:
            try:
                video = stack.enter_context(self._reader.video(part))
            except StorageUnavailableError:
                raise
            except (DataError, StorageError) as error:
                return [Found(part.video, error=str(error))]
            tracker = Tracker(self._settings.conf, video.fps) if self._settings.track else None
            frames = stack.enter_context(closing(self._reader.frames(part, video, self._prepare)))
            return self._in_order(frames, self._video_drawing(part, video.fps), tracker)

    def _video_drawing(self, part: Part, fps: float) -> Drawing:
        if not self._settings.pictures:
            return NoDrawing()
        pictures = self._out.child(PICTURES_FOLDER)
        return VideoDrawing(pictures, part.video, fps, self._pen, self._settings.video_format)

    def _prepare(self, frame: Frame) -> _Ready:
        height, width = frame.image_HW3.shape[:2]
        fitted = self._predictor.fit(frame.image_HW3, frame.name)
        pixels = frame.pixels_later() if self._settings.pictures else None
        return _Ready(frame.name, frame.number, width, height, fitted, pixels)

    def _in_order(self, items: Iterable[_Ready | Unreadable], drawing: Drawing, tracker: Tracker | None) -> list[Found]:
        placed = sorted(self._predicted(items, drawing, tracker), key=itemgetter(0))
        return [one for _, one in placed]

    def _predicted(
        self, items: Iterable[_Ready | Unreadable], drawing: Drawing, tracker: Tracker | None
    ) -> Generator[tuple[int, Found]]:
        """What was found in each item, by its place among them; those of a shape in order, for a tracker to follow."""
        broken: list[tuple[int, Found]] = []
        with drawing:

            def predict(group: list[tuple[int, _Ready]]) -> list[tuple[int, _Ready, Poses]]:
                with self._lanes.one() as lane:
                    poses = lane.predict_fitted([one.fitted for _, one in group])
                return [(place, one, found) for (place, one), found in zip(group, poses, strict=True)]

            groups = _by_shape(_readable(items, broken), self._batch)
            ahead = self._lane_count + 1  # one more than there are lanes, so that none waits for its images
            with closing(map_in_threads(predict, groups, threads=self._lane_count, ahead=ahead)) as predicted:
                for group in predicted:
                    for place, one, poses in group:
                        yield place, self._told(one, poses, drawing, tracker)
                    self._on_images(len(group))
            drawing.finish()
        yield from broken

    def _told(self, one: _Ready, poses: Poses, drawing: Drawing, tracker: Tracker | None) -> Found:
        id_N: IntArray | None = None
        if tracker is not None:
            poses, id_N = tracker.update(poses)
        elif self._settings.track:  # a still image: the model was asked for more people than are wanted of it
            poses = poses_above(poses, self._settings.conf)
        if one.pixels is not None:
            drawing.add(one.name, one.pixels, poses, id_N)
        return Found(one.name, one.number, one.width, one.height, poses, id_N)


def _readable(items: Iterable[_Ready | Unreadable], broken: list[tuple[int, Found]]) -> Generator[tuple[int, _Ready]]:
    """Images with their places among the items; what is none goes to `broken`."""
    for place, item in enumerate(items):
        if isinstance(item, Unreadable):
            broken.append((place, Found(item.name, error=item.error)))
        else:
            yield place, item


def _by_shape(images: Iterable[tuple[int, _Ready]], batch: int) -> Generator[list[tuple[int, _Ready]]]:
    """Lists of up to `batch` images that fill the same canvas, which go through a model together."""
    waiting: defaultdict[tuple[int, ...], list[tuple[int, _Ready]]] = defaultdict(list)
    count = 0
    for place, image in images:
        group = waiting[image.fitted.canvases[0].shape]
        group.append((place, image))
        count += 1
        if len(group) == batch or count == _MOST_WAITING:
            shape = max(waiting, key=lambda one: len(waiting[one]))
            count -= len(waiting[shape])
            yield waiting.pop(shape)
    yield from waiting.values()
