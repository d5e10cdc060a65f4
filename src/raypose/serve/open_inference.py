"""The Open Inference Protocol v2, which clients of Triton and KServe speak.

Input `image`: BYTES, shape [B], encoded images (in JSON as base64). Or `pixels`: UINT8, [H, W, 3] or [B, H, W, 3], RGB.
Outputs, with N people in all images together: `image_index` [N], `box` [N, 4], `score` [N], `class` [N],
`keypoints` [N, K, 3], and `error` [B], empty for images that were predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray

from raypose.inference import Selection
from raypose.serve.bodies import read_body
from raypose.serve.problem import Problem
from raypose.serve.service import Prediction, Service
from raypose.serve.tensors import InferRequest, encode_response, parse_request
from raypose.serve.uploads import Upload
from raypose.structures import ImageArray, Poses

_BATCH_DIMENSIONS = 4
_REFUSED = {
    "description": "Refused, and why; the code is in X-Error-Code",
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}},
}


def open_inference_routes(service: Service) -> APIRouter:
    """Everything below /v2."""
    routes = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"], responses={"default": _REFUSED})
    name = service.config.name

    @routes.get("")
    async def server() -> dict[str, Any]:
        return {"name": "raypose", "version": version("raypose"), "extensions": ["binary_tensor_data"]}

    @routes.get("/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @routes.get("/health/ready")
    async def ready() -> dict[str, bool]:
        service.require_ready()
        return {"ready": True}

    for path in ("/models/{model}", "/models/{model}/versions/{version}"):
        routes.add_api_route(path, _metadata(service, name), methods=["GET"])
        routes.add_api_route(f"{path}/ready", _ready(service, name), methods=["GET"])
        routes.add_api_route(
            f"{path}/infer",
            _infer(service, name),
            methods=["POST"],
            response_class=Response,
            openapi_extra={"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}},
        )
    return routes


def _require_name(asked: str, name: str) -> None:
    if asked != name:
        raise Problem("no_such_model", f"no model {asked[:100]!r}; this service has {name}")


def _metadata(service: Service, name: str) -> Any:
    async def metadata(model: str, version: str | None = None) -> dict[str, Any]:
        _require_name(model, name)
        _, served = service.model(version or "stable")
        return {
            "name": name,
            "versions": [each.version for _, each in service.models()],
            "platform": "raypose",
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [-1]},
                {"name": "pixels", "datatype": "UINT8", "shape": [-1, -1, -1, 3]},
            ],
            "outputs": [
                {"name": "image_index", "datatype": "INT64", "shape": [-1]},
                {"name": "box", "datatype": "FP32", "shape": [-1, 4]},
                {"name": "score", "datatype": "FP32", "shape": [-1]},
                {"name": "class", "datatype": "INT64", "shape": [-1]},
                {"name": "keypoints", "datatype": "FP32", "shape": [-1, served.spec.skeleton.keypoints, 3]},
                {"name": "error", "datatype": "BYTES", "shape": [-1]},
            ],
        }

    return metadata


def _ready(service: Service, name: str) -> Any:
    async def ready(model: str, version: str | None = None) -> dict[str, Any]:
        _require_name(model, name)
        service.require_ready()
        service.model(version or "stable")
        return {"name": name, "ready": True}

    return ready


def _infer(service: Service, name: str) -> Any:
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        _require_name(model, name)
        request.state.route = f"/v2/models/{name}/infer"  # by the name of a version there would be any number of them
        body = await read_body(request, service)
        length = request.headers.get("inference-header-content-length")
        asked = await service.in_pool(lambda: parse_request(body, length))
        images = _images(asked, service.config.limits.images)
        request.state.images = len(images)
        for image in images:
            if not isinstance(image, Upload) and image.shape[0] * image.shape[1] > service.config.limits.image_pixels:
                raise Problem("image_too_large", f"pixels: {image.shape[1]}x{image.shape[0]}")
        with service.admitted(len(images)):
            predicted = await service.predict(images, _selection(asked, service), service.model(version))
        request.state.version = predicted.model.version
        tensors = _tensors(predicted.images, predicted.model.spec.skeleton.keypoints)
        head = {"model_name": name, "model_version": predicted.model.version} | ({"id": asked.id} if asked.id else {})
        content, json_length = encode_response(head, tensors, asked)
        headers = {"X-Model-Version": predicted.model.version}
        if json_length is None:
            return Response(content, headers=headers, media_type="application/json")
        headers["Inference-Header-Content-Length"] = str(json_length)
        return Response(content, headers=headers, media_type="application/octet-stream")

    return infer


def _images(asked: InferRequest, most: int) -> Sequence[Upload | ImageArray]:
    """The images of the one input that is there."""
    encoded, pixels = asked.inputs.get("image"), asked.inputs.get("pixels")
    if len(asked.inputs) != 1 or (encoded is None and pixels is None):
        raise Problem("no_image", "expected one input: image (BYTES) or pixels (UINT8)")
    images: list[Upload | ImageArray]
    if isinstance(encoded, list):
        images = [Upload(f"image[{index}]", content) for index, content in enumerate(encoded)]
    elif isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[-1:] == (3,):
        images = list(pixels if pixels.ndim == _BATCH_DIMENSIONS else pixels[None])
        if pixels.ndim not in (3, _BATCH_DIMENSIONS) or 0 in pixels.shape:
            raise Problem("bad_body", f"pixels: shape {list(pixels.shape)}, expected [H, W, 3] or [B, H, W, 3]")
    else:
        raise Problem("bad_body", "image has to be BYTES, pixels UINT8 with 3 channels")
    if not images:
        raise Problem("no_image", "the input has no image")
    if len(images) > most:
        raise Problem("too_many_images", f"{len(images)} images, at most {most} a request")
    return images


def _selection(asked: InferRequest, service: Service) -> Selection:
    defaults = service.config.defaults
    chosen: dict[str, float] = {"conf": defaults.conf, "iou": defaults.iou, "max_det": defaults.max_det}
    highest = {"conf": 1.0, "iou": 1.0, "max_det": 1000}
    for key in chosen.keys() & asked.parameters.keys():
        value = asked.parameters[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= highest[key]:
            raise Problem("bad_parameter", f"{key}: a number from 0 to {highest[key]}, found {value!r:.50}")
        chosen[key] = value
    return Selection(float(chosen["conf"]), float(chosen["iou"]), max(1, int(chosen["max_det"])))


def _tensors(images: Sequence[Prediction | Problem], keypoints: int) -> dict[str, NDArray[Any] | list[str]]:
    # Nobody, first: where nobody is found there is still something to join.
    poses = [Poses.empty(keypoints)]
    index_P = [np.zeros(0, np.int64)]
    for index, image in enumerate(images):
        if isinstance(image, Prediction):
            poses.append(image.poses)
            index_P.append(np.full(len(image.poses), index, np.int64))
    return {
        "image_index": np.concatenate(index_P),
        "box": np.concatenate([each.box_xyxy_N4 for each in poses]),
        "score": np.concatenate([each.score_N for each in poses]),
        "class": np.concatenate([each.class_N for each in poses]),
        "keypoints": np.concatenate([each.keypoints_NK3 for each in poses]),
        "error": [image.code if isinstance(image, Problem) else "" for image in images],
    }
