"""Images in, poses out: letterbox, model, selection, and back to the pixels of the stored image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raypose.config.schema import STRIDE
from raypose.errors import ConfigError, DataError
from raypose.inference.backends import Backend, ComputeOptions, ComputePrecision, TorchBackend, open_backend
from raypose.inference.views import Views, merge, mirror, unmirror
from raypose.model import ModelSpec, RawPoses, select_poses
from raypose.structures import ImageArray, Poses
from raypose.vision.geometry import Letterbox

_AS_IT_IS = Views()


@dataclass(frozen=True, slots=True)
class Fitted:
    """An image as the model is to see it: a canvas for each view, mirrored or not."""

    width: int
    canvases: tuple[ImageArray, ...]
    letterboxes: tuple[Letterbox, ...]
    mirrored: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which people of an image count: those above `conf`, their boxes overlapping up to `iou`, at most `max_det`."""

    conf: float
    iou: float
    max_det: int


class Predictor:
    """Finds people in images. Not for several threads at once, which is what `twin` is for: the model keeps the
    anchors of its last canvas.

    `conf` drops people that score less, `iou` is how far two boxes may overlap, `max_det` the most people an image.
    Several `views` of each image are merged into one answer.
    """

    def __init__(
        self, backend: Backend, imgsz: int, *, conf: float, iou: float, max_det: int, views: Views = _AS_IT_IS
    ) -> None:
        self.spec = backend.metadata.spec
        self.imgsz = imgsz
        self._backend = backend
        self._selection = Selection(conf, iou, max_det)
        self._views = views
        self._looks = views.of(imgsz)
        if not backend.metadata.dynamic and {size for size, _ in self._looks} != {imgsz}:
            raise ConfigError(f"scales: the model was exported for imgsz {imgsz} alone; export it again as dynamic")

    @classmethod
    def from_model(
        cls,
        module: nn.Module,
        spec: ModelSpec,
        imgsz: int,
        *,
        device: str | torch.device | None = None,
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        precision: ComputePrecision = "float32",
        nms_free: bool = False,
    ) -> Predictor:
        """Over a copy of today's weights of a module that may go on training, on its device or another one.

        The copy's convolutions absorb their BatchNorm layers, so it predicts what the saved model will.
        """
        _check_imgsz(imgsz)
        here = str(next(module.parameters()).device if device is None else device)
        options = ComputeOptions(here, precision, nms_free, max_det)
        backend = TorchBackend.of_copy(module, spec, imgsz, options)
        return cls(backend, imgsz, conf=conf, iou=iou, max_det=max_det)

    @classmethod
    def load(
        cls,
        path: str | Path,
        imgsz: int | None = None,
        *,
        device: str = "auto",
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        precision: ComputePrecision = "float32",
        nms_free: bool = False,
        views: Views = _AS_IT_IS,
        one_thread: bool = False,
    ) -> Predictor:
        """From a raypose checkpoint or run, an Ultralytics `.pt`, or a model that `export_model` wrote.

        `imgsz` None takes the size the model was trained at. A checkpoint is read from its safetensors. `one_thread`
        is for predictions that must be the same on any number of cores, see `ComputeOptions`.
        """
        if imgsz is not None:
            _check_imgsz(imgsz)
        options = ComputeOptions(device, precision, nms_free, max_det, one_thread)
        backend = open_backend(Path(path), options, imgsz)
        return cls(backend, imgsz or backend.metadata.imgsz, conf=conf, iou=iou, max_det=max_det, views=views)

    @property
    def lanes(self) -> int:
        """How many twins, each in a thread of its own, keep the device busy."""
        return self._backend.lanes

    @property
    def device_type(self) -> str:
        """`cpu` or `cuda`."""
        return self._backend.device_type

    @property
    def precision(self) -> str:
        """`float32` or `bfloat16`: what the model's layers compute in."""
        return self._backend.precision

    def twin(self) -> Predictor:
        """Another one over the same weights, for another thread."""
        return Predictor(
            self._backend.twin(),
            self.imgsz,
            conf=self._selection.conf,
            iou=self._selection.iou,
            max_det=self._selection.max_det,
            views=self._views,
        )

    def predict(self, images: Sequence[ImageArray]) -> list[Poses]:
        """The people of each HW3 RGB image. Images that fill the same canvas go through the model together."""
        return self.predict_fitted([self.fit(image, f"image {index}") for index, image in enumerate(images)])

    def fit(self, image: ImageArray, where: str) -> Fitted:
        """Scaled and padded as the model takes it; raises DataError that names `where` for what is no RGB image."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(f"{where}: {image.dtype} of shape {image.shape}, expected uint8 RGB of shape (H, W, 3)")
        height, width = image.shape[:2]
        square = not self._backend.metadata.dynamic
        letterboxes = tuple(Letterbox.fit(width, height, size, stride=STRIDE, square=square) for size, _ in self._looks)
        mirrored = tuple(flip for _, flip in self._looks)
        sides = {False: image} | ({True: mirror(image)} if any(mirrored) else {})
        canvases = tuple(box.apply(sides[flip]) for box, flip in zip(letterboxes, mirrored, strict=True))
        return Fitted(width, canvases, letterboxes, mirrored)

    def predict_fitted(self, images: Sequence[Fitted], selections: Sequence[Selection] | None = None) -> list[Poses]:
        """The people of each image, in pixels of the image that was fitted.

        `selections`, one an image, take the place of the predictor's own `conf`, `iou` and `max_det`.
        """
        if selections is None:
            selections = [self._selection] * len(images)
        groups: defaultdict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for index, fitted in enumerate(images):
            for view, canvas in enumerate(fitted.canvases):
                groups[canvas.shape].append((index, view))
        found: dict[tuple[int, int], Poses] = {}
        at_once = self._backend.images_a_call
        for group in groups.values():
            for start in range(0, len(group), at_once):
                places = group[start : start + at_once]
                canvases = np.stack([images[index].canvases[view] for index, view in places])
                wanted = [selections[index] for index, _ in places]
                for (index, view), raw in zip(places, self._select(canvases, wanted), strict=True):
                    found[index, view] = self._to_stored_image(raw, images[index], view)
        return [
            self._merged([found[index, view] for view in range(len(self._looks))], selection)
            for index, selection in enumerate(selections)
        ]

    def _merged(self, found: list[Poses], selection: Selection) -> Poses:
        return found[0] if len(found) == 1 else merge(found, conf=selection.conf, max_det=selection.max_det)

    def _to_stored_image(self, raw: RawPoses, fitted: Fitted, view: int) -> Poses:
        poses = to_stored_image(raw, fitted.letterboxes[view])
        if not fitted.mirrored[view]:
            return poses
        assert self._views.flip_index is not None  # or nothing would be mirrored
        return unmirror(poses, fitted.width, self._views.flip_index)

    def _select(self, canvas_BHW3: ImageArray, selections: Sequence[Selection]) -> list[RawPoses]:
        output = self._backend(canvas_BHW3)
        if len(set(selections)) == 1:
            return self._select_alike(output, selections[0])
        rows = zip(torch.split(output, 1), selections, strict=True)
        return [self._select_alike(row, selection)[0] for row, selection in rows]

    def _select_alike(self, output: Tensor, selection: Selection) -> list[RawPoses]:
        return select_poses(
            output,
            classes=len(self.spec.class_names),
            keypoints=self.spec.skeleton.keypoints,
            end2end=self._backend.metadata.end2end,
            conf=selection.conf,
            iou=selection.iou,
            max_det=selection.max_det,
        )


def to_stored_image(raw: RawPoses, letterbox: Letterbox) -> Poses:
    """From canvas pixels to those of the stored image; boxes and keypoints end at its border, as Ultralytics' do."""
    corner_N22 = raw.box_xyxy_N4.cpu().numpy().reshape(-1, 2, 2)
    keypoints_NK3 = raw.keypoints_NK3.cpu().numpy()
    xy_NK2 = letterbox.to_image_clipped(keypoints_NK3[..., :2])
    return Poses(
        box_xyxy_N4=letterbox.to_image_clipped(corner_N22).reshape(-1, 4),
        score_N=raw.score_N.cpu().numpy(),
        class_N=raw.class_N.cpu().numpy(),
        keypoints_NK3=np.concatenate([xy_NK2, keypoints_NK3[..., 2:]], axis=-1),
    )


def _check_imgsz(imgsz: int) -> None:
    if imgsz <= 0 or imgsz % STRIDE:
        raise ConfigError(f"imgsz {imgsz} is no positive multiple of {STRIDE}")
