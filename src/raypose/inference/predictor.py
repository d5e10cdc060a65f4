"""Images in, poses out: letterbox, model, selection, and back to the pixels of the stored image."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from raypose.config.schema import STRIDE
from raypose.errors import ConfigError, DataError
from raypose.inference.backends import Backend, ComputeOptions, ComputePrecision, TorchBackend, open_backend
from raypose.model import ExportMetadata, ModelSpec, RawPoses, inference_view, select_poses
from raypose.structures import ImageArray, Poses
from raypose.vision.geometry import Letterbox


class Predictor:
    """Finds people in images. Not for several threads at once: the model keeps the anchors of its last canvas.

    `conf` drops people that score less, `iou` is how far two boxes may overlap, `max_det` the most people an image.
    """

    def __init__(self, backend: Backend, imgsz: int, *, conf: float, iou: float, max_det: int) -> None:
        self.spec = backend.metadata.spec
        self.imgsz = imgsz
        self._backend = backend
        self._conf = conf
        self._iou = iou
        self._max_det = max_det

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
        """Over a module that goes on training: weights are shared, modes and everything else are not.

        On another `device` than the module's it works on a copy of today's weights.
        """
        _check_imgsz(imgsz)
        view = inference_view(module)
        here = next(view.parameters()).device
        if device is not None and torch.empty(0, device=device).device != here:
            view = copy.deepcopy(view).to(device)
        options = ComputeOptions(precision=precision, nms_free=nms_free, max_det=max_det)
        metadata = ExportMetadata(spec, imgsz, dynamic=True, end2end=nms_free)
        return cls(TorchBackend(view, metadata, options), imgsz, conf=conf, iou=iou, max_det=max_det)

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
    ) -> Predictor:
        """From a raypose checkpoint or run, an Ultralytics `.pt`, or a model that `export_model` wrote.

        `imgsz` None takes the size the model was trained at. A checkpoint is read from its safetensors.
        """
        if imgsz is not None:
            _check_imgsz(imgsz)
        options = ComputeOptions(device, precision, nms_free, max_det)
        backend = open_backend(Path(path), options, imgsz)
        return cls(backend, imgsz or backend.metadata.imgsz, conf=conf, iou=iou, max_det=max_det)

    def predict(self, images: Sequence[ImageArray]) -> list[Poses]:
        """The people of each HW3 RGB image. Images that fill the same canvas go through the model together."""
        boxes = [self._fit(index, image) for index, image in enumerate(images)]
        groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for index, letterbox in enumerate(boxes):
            groups[letterbox.canvas_height, letterbox.canvas_width].append(index)
        found: dict[int, Poses] = {}
        for group in groups.values():
            for indices in self._batches(group):
                canvases = np.stack([boxes[index].apply(images[index]) for index in indices])
                for index, raw in zip(indices, self._select(canvases), strict=True):
                    found[index] = to_stored_image(raw, boxes[index])
        return [found[index] for index in range(len(images))]

    def _fit(self, index: int, image: ImageArray) -> Letterbox:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise DataError(
                f"image {index}: {image.dtype} of shape {image.shape}, expected uint8 RGB of shape (H, W, 3)"
            )
        height, width = image.shape[:2]
        return Letterbox.fit(width, height, self.imgsz, stride=STRIDE, square=not self._backend.metadata.dynamic)

    def _batches(self, indices: list[int]) -> list[list[int]]:
        return [indices] if self._backend.metadata.dynamic else [[index] for index in indices]

    def _select(self, canvas_BHW3: ImageArray) -> list[RawPoses]:
        return select_poses(
            self._backend(canvas_BHW3),
            classes=len(self.spec.class_names),
            keypoints=self.spec.skeleton.keypoints,
            end2end=self._backend.metadata.end2end,
            conf=self._conf,
            iou=self._iou,
            max_det=self._max_det,
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
