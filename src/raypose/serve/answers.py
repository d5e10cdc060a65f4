"""Poses as the JSON that clients read, and as pictures."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any, Literal

import cv2

from raypose.errors import DataError
from raypose.inference import describe_people
from raypose.serve.problem import Problem
from raypose.serve.service import Predicted, Prediction
from raypose.structures import Skeleton
from raypose.vision.draw import draw_poses, encode_png
from raypose.vision.part_colours import part_colours

Picture = Literal["png", "webp"]
_WEBP_QUALITY = 90
_RENDER_KEYPOINT_CONF = 0.5
"""Keypoints drawn where the request does not say: the others are mostly guesses at what is hidden."""


@lru_cache(maxsize=64)
def skeleton_id(skeleton: Skeleton) -> str:
    """A name that differs where keypoints, edges, flip pairs or sigmas do."""
    text = json.dumps(skeleton.to_dict(), sort_keys=True)
    return f"{skeleton.keypoints}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


@lru_cache(maxsize=64)
def skeleton_dict(skeleton: Skeleton) -> dict[str, Any]:
    """What a client needs to draw it."""
    colours = part_colours(skeleton)
    return {
        "id": skeleton_id(skeleton),
        "keypoints": list(skeleton.names),
        "edges": [list(edge) for edge in skeleton.edges],
        "keypoint_colours": [list(colour) for colour in colours.keypoints],
        "edge_colours": [list(colour) for colour in colours.edges],
    }


def answer_json(predicted: Predicted, name: str, *, keypoint_conf: float, total_s: float) -> bytes:
    """The whole answer. Keypoints less sure than `keypoint_conf` are left out."""
    spec = predicted.model.spec
    answer = {
        "model": {"name": name, "version": predicted.model.version, "role": predicted.role},
        "skeleton": skeleton_id(spec.skeleton),
        "images": [
            {"error": image.to_dict()}
            if isinstance(image, Problem)
            else _image(image, spec.skeleton, spec.class_names, keypoint_conf)
            for image in predicted.images
        ],
        "timings_ms": {"total": round(total_s * 1000, 2)},
    }
    return json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()


def _image(image: Prediction, skeleton: Skeleton, classes: tuple[str, ...], keypoint_conf: float) -> dict[str, Any]:
    return {
        "name": image.name,
        "width": image.width,
        "height": image.height,
        "people": describe_people(image.poses, skeleton, classes, keypoint_conf),
        "batch": image.batch,
        "timings_ms": {stage: round(seconds * 1000, 2) for stage, seconds in image.stage_s.items()},
    }


def picture(image: Prediction, skeleton: Skeleton, kind: Picture, keypoint_conf: float | None) -> bytes:
    """The image with the skeletons on it; its pixels have been kept."""
    assert image.image_HW3 is not None
    conf = _RENDER_KEYPOINT_CONF if keypoint_conf is None else keypoint_conf
    drawn_HW3 = draw_poses(image.image_HW3, image.poses, skeleton, keypoint_conf=conf, min_score=0.0)
    if kind == "png":
        return encode_png(drawn_HW3)
    try:
        done, encoded = cv2.imencode(
            ".webp", cv2.cvtColor(drawn_HW3, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_WEBP_QUALITY, _WEBP_QUALITY)
        )
    except cv2.error as error:  # a side of more than 16,383 pixels
        raise Problem("bad_parameter", "render: the image is too large for WebP; ask for png") from error
    if not done:
        raise DataError("encoding the picture as WebP failed")
    return bytes(encoded.tobytes())
